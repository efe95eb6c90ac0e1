"""Checks of a device's measured peaks: against its maker's datasheet, and against the last time they were measured."""

from __future__ import annotations

from .check_remedies import busiest
from .datasheets import with_datasheet
from .finding import Document, Finding, Findings, look, records
from .hardware import MOVES, DevicePeaks, Peak
from .peaks_cache import Remembered

# Shares of the datasheet that healthy devices sustain: on random data a large product is held by the power limit, a
# read loses only what refreshing the memory and correcting its errors cost.
_PRODUCT_SHARE, _READ_SHARE = 0.6, 0.8
_MOVED = 0.05
_AGAIN = "to see whether it lasts: dlmbench calibrate"
_DOCTOR = "for what holds its clocks and who else uses it: dlmbench doctor"


def check_peaks(peaks: DevicePeaks, before: DevicePeaks | None, subject: str) -> Findings:
    """Findings about `peaks`; `before` is the measurement before it under the same identity, if there was one."""
    if peaks.disturbed:
        yield Finding(
            "peaks.disturbed",
            "warning",
            subject,
            f"the threads that measured waited for {peaks.waited_cores:.1f} processors that others used",
            "every peak is too low, by up to their share of the processors: floors and ceilings are too easy",
            f"stop them, then measure again (dlmbench calibrate); to name them: {busiest()}",
        )
        return
    for name, peak in peaks.peaks.items():
        yield from _against_datasheet(peaks, name, peak, subject)
        if before is not None and name in before.peaks:
            yield from _against_before(name, peak, before.peaks[name], before.measured, subject)


def check_dtypes(peaks: DevicePeaks, subject: str) -> Findings:
    """A dtype of half the bits that is slower than float32: the device has no kernel made for it."""
    base = peaks.matmul.get("float32")
    for dtype, peak in peaks.matmul.items():
        if base is not None and peak.sustained < 0.8 * base.sustained:
            yield Finding(
                f"peaks.slow.{dtype}",
                "info",
                subject,
                f"{dtype} products run at {peak.sustained / base.sustained:.0%} of float32's rate: no fast kernel here",
                f"cells in {dtype} take longer than in float32 wherever arithmetic is the limit (prefill, denoising)",
                "dlmbench run --dtype float32",
            )


def check_kept_peaks(environment: Document, live: Document) -> Findings:
    """The same about what the cache keeps of the devices of this machine: of each the newest; nothing is measured."""
    names = {look(gpu, "name") for gpu in records(look(environment, "gpu.gpus"))} | {look(environment, "cpu.model")}
    kept = [Remembered.model_validate(entry) for entry in records(look(live, "peaks"))]
    newest = {entry.last.name: entry for entry in sorted(kept, key=lambda entry: entry.last.measured)}
    for name in sorted(name for name in names & newest.keys() if name):
        entry = newest[name]
        yield from check_peaks(with_datasheet(entry.last), entry.before, f"peaks of {name} ({entry.last.measured})")


def _against_datasheet(peaks: DevicePeaks, name: str, peak: Peak, subject: str) -> Findings:
    sheet = peaks.stated(name)
    if sheet is None or name == "copy":
        return
    share, least = peak.sustained / sheet, _READ_SHARE if name == "read" else _PRODUCT_SHARE
    code, told = f"peaks.datasheet.{name}", f"{_called(name)} at {_rate(name, peak.sustained)}"
    if share < least:
        yield Finding(
            code,
            "warning",
            subject,
            f"sustains a {told}, {share:.0%} of the datasheet's {_rate(name, sheet)} (expected: {least:.0%} or more)",
            f"{_bound(name)} take longer than on such a device in order; mfu and mbu, which are shares of what "
            "is measured, do not show it",
            _DOCTOR,
        )
    else:
        yield Finding(code, "ok", subject, f"sustains a {told}, {share:.0%} of the datasheet's {_rate(name, sheet)}")


def _against_before(name: str, peak: Peak, old: Peak, when: str, subject: str) -> Findings:
    change = peak.sustained / old.sustained - 1
    if abs(change) <= _MOVED:
        return
    less = change < 0
    yield Finding(
        f"peaks.moved.{name}",
        "warning",
        subject,
        f"sustains a {_called(name)} at {_rate(name, peak.sustained)}, {abs(change):.0%} {'less' if less else 'more'} "
        f"than the last time ({_rate(name, old.sustained)}, {when})",
        f"latency_s of {_bound(name)} moves as much, and a stored baseline may hold no longer; mfu and mbu hardly "
        "move, being shares of what is measured beside them",
        f"{_DOCTOR}; {_AGAIN}" if less else _AGAIN,
    )


def _bound(name: str) -> str:
    """The forwards that a peak limits."""
    return "memory-bound forwards (decoding)" if name in MOVES else "compute-bound forwards (prefill, denoising)"


def _called(name: str) -> str:
    return name if name in MOVES else f"matrix product in {name}"


def _rate(name: str, rate: float) -> str:
    """For people: "745 TFLOP/s", "3.1 TB/s"."""
    unit = "B/s" if name in MOVES else "FLOP/s"
    for prefix in ("", "k", "M", "G", "T"):
        if rate < 999.5:
            return f"{rate:.3g} {prefix}{unit}"
        rate /= 1000
    return f"{rate:.3g} P{unit}"
