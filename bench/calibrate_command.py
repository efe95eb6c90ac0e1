"""`dlmbench calibrate`: what this device can do now, beside its maker's datasheet and the last time.

It is measured in a worker of its own, under the same settings as a run's workers, and kept for the runs that follow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from .. import InputError
from ..models.config import DTYPE_BYTES
from ..profiles.check_peaks import check_dtypes, check_peaks
from ..profiles.hardware import MOVES, DevicePeaks
from ..profiles.peaks_cache import PeaksCache
from ..reports.format import MISSING
from ..reports.grid import GridColumn, draw
from ..reports.plain import plain
from .doctor_command import show_findings
from .handle import WorkerFailedError, WorkerHandle
from .plan import choose_device, choose_threads

_HANG_S = 300.0
_RIDGE = (
    "Ridge, in FLOP/B: a forward over N positions does about N FLOPs a byte in 16 bits (N/2 in float32). Below the "
    "ridge it waits for memory, as AR decoding of few rows does; above it for arithmetic, as prefill and denoising do."
)

Ask = Callable[..., dict[str, Any]]


def calibrate_command(
    device: str, threads: int | None, dtypes: Sequence[str], console: Console, *, ask: Ask | None = None
) -> dict[str, Any]:
    """Measure, keep and show the peaks of a device in these dtypes (none: in all); returns them as a document.

    `ask(device, threads, **fields)` puts the operation "peaks" to a worker. Where nothing could be measured, the
    document's list of peaks is empty and `why` says so.
    """
    unknown = [dtype for dtype in dtypes if dtype not in DTYPE_BYTES]
    if unknown:
        raise InputError(f"--dtype {unknown[0]!r}: expected some of {', '.join(DTYPE_BYTES)}, separated by commas")
    chosen, count = choose_device(device), choose_threads(threads)
    try:
        fields = {"dtypes": list(dict.fromkeys(dtypes)) or list(DTYPE_BYTES), "max_age_s": 0.0}
        reply = (ask or _ask_worker)(chosen, count, **fields)
    except WorkerFailedError as error:
        if error.code == "input":
            raise InputError(error.message) from None
        return _nothing(chosen, count, error.message, console)
    peaks = DevicePeaks.model_validate(reply["peaks"])
    before = None if reply["before"] is None else DevicePeaks.model_validate(reply["before"])
    if not peaks.matmul and peaks.read is None:
        return _nothing(chosen, count, "; ".join(f"{name}: {why}" for name, why in peaks.missing.items()), console)
    name = plain(peaks.name)
    findings = [*check_peaks(peaks, before, name), *check_dtypes(peaks, name)]
    rows = _rows(peaks, before)
    _show(peaks, before, rows, console)
    show_findings(findings, console)
    path = PeaksCache.of_user(os.environ).path(peaks.identity)
    for note in reply["notes"]:
        console.print(Text(plain(note), style="yellow"), soft_wrap=True)
    if path is not None and not reply["notes"]:
        console.print(Text(f"kept for later runs: {path}", style="dim"), soft_wrap=True)
    return {
        "device": chosen,
        "name": peaks.name,
        "threads": peaks.threads,
        "identity": peaks.identity,
        "measured": peaks.measured,
        "before": None if before is None else before.measured,
        "peaks": rows,
        "missing": peaks.missing,
        "datasheet": None if peaks.datasheet is None else peaks.datasheet.model_dump(mode="json"),
        "findings": [asdict(finding) for finding in findings],
        "notes": list(reply["notes"]),
        "why": None,
    }


def _ask_worker(device: str, threads: int, **fields: Any) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        handle = WorkerHandle(Path(folder) / "worker.log", threads, device)
        try:
            return handle.ask("peaks", _HANG_S, device=device, threads=threads, **fields)
        finally:
            handle.end()


def _nothing(device: str, threads: int, why: str, console: Console) -> dict[str, Any]:
    console.print(Text(f"nothing could be measured: {plain(why)}", style="yellow"), soft_wrap=True)
    return {"device": device, "threads": threads, "peaks": [], "findings": [], "notes": [], "why": why}


def _rows(peaks: DevicePeaks, before: DevicePeaks | None) -> list[dict[str, Any]]:
    """A peak a row, rates in FLOP/s or B/s: with its datasheet, the last time, and the ridge of a product."""
    rows = []
    for name, peak in peaks.peaks.items():
        sheet = peaks.stated(name)
        old = None if before is None else before.peaks.get(name)
        product = name not in MOVES
        rows.append(
            {
                "name": name,
                "unit": "FLOP/s" if product else "B/s",
                "burst": peak.burst,
                "sustained": peak.sustained,
                "size": peak.size,
                "datasheet": sheet,
                "share": None if sheet is None else peak.sustained / sheet,
                "before": None if old is None else old.sustained,
                "change": None if old is None else peak.sustained / old.sustained - 1,
                "ridge": peak.sustained / peaks.read.sustained if product and peaks.read is not None else None,
            }
        )
    return rows


def _show(peaks: DevicePeaks, before: DevicePeaks | None, rows: list[dict[str, Any]], console: Console) -> None:
    threads = "" if peaks.device.startswith("cuda") else f", {peaks.threads} thread(s)"
    rounding = ", float32 products in TF32" if peaks.identity.get("float32") == "tf32" else ""
    console.print(Text(f"{plain(peaks.name)}{threads}{rounding}", style="bold"), soft_wrap=True)
    columns = {
        "burst": _number, "sustained": _number, "best size": _size, "datasheet": _number, "of it": _percent,
        "change": _signed, "ridge": _ridge,
    }  # fmt: skip
    keys = dict(zip(columns, ("burst", "sustained", "size", "datasheet", "share", "change", "ridge"), strict=True))
    shown = [name for name in columns if any(row[keys[name]] is not None for row in rows)]
    lines = []
    for row in rows:
        scale, prefix = _prefix(row["sustained"])
        cells = [MISSING if row[keys[n]] is None else columns[n](row[keys[n]], row["unit"], scale) for n in shown]
        lines.append([Text(text) for text in (f"{row['name']}, {prefix}{row['unit']}", *cells)])
    draw(console, [GridColumn("peak", right=False), *(GridColumn(name) for name in shown)], lines)
    for name, why in peaks.missing.items():
        console.print(Text(f"{MISSING} {plain(name)}: {plain(why)}", style="dim"), soft_wrap=True)
    told = [
        "Burst: the best short stretch after a rest. Sustained: once the clocks have settled.",
        *([f"Datasheet: {plain(peaks.datasheet.source)}."] if peaks.datasheet else []),
        "The first time with this device, driver, torch, threads and settings: nothing to compare with."
        if before is None
        else f"Change: of sustained, since {before.measured}.",
        _RIDGE,
    ]
    for sentence in told:
        console.print(Text(sentence, style="dim"))


def _prefix(rate: float) -> tuple[float, str]:
    return next(((s, p) for s, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if rate >= s), (1.0, ""))


def _digits(x: float) -> str:
    """Three significant digits."""
    return f"{x:,.{max(0, 2 - math.floor(math.log10(x)))}f}"


def _number(value: float, _: str, scale: float) -> str:
    return _digits(value / scale)


def _size(value: int, unit: str, _: float) -> str:
    return str(value) if unit == "FLOP/s" else f"{value >> 20} MiB"


def _percent(value: float, *_: object) -> str:
    return f"{value:.0%}"


def _signed(value: float, *_: object) -> str:
    return f"{value:+.1%}"


def _ridge(value: float, *_: object) -> str:
    return _digits(value)
