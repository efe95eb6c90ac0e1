"""`dlmbench list`: suites, pairs, generators, endpoints, devices, metrics."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import InputError
from ..models.endpoints.presets import presets
from ..models.names import BUILT_IN, RANDOM, TRAINED, BuiltIn
from ..models.pairs import Pair, load_pair, pair_names
from ..models.plugins import ENTRY_POINTS
from ..profiles.gpus import load_nvml, read_gpus
from ..profiles.host import read_cpu, usable_cpus
from ..profiles.metrics import METRICS
from .suites import load_suite, suite_names

Rows = list[dict[str, Any]]


def listing(what: str) -> dict[str, Rows]:
    """The rows of one kind, or of all kinds."""
    kinds = {
        "suites": _suites,
        "pairs": _pairs,
        "generators": _generators,
        "endpoints": _endpoints,
        "devices": _devices,
        "metrics": _metrics,
    }
    if what == "all":
        return {name: rows() for name, rows in kinds.items() if name != "metrics"}
    if what not in kinds:
        raise InputError(f"list {what!r}: unknown; choose from {', '.join(kinds)}")
    return {what: kinds[what]()}


def _suites() -> Rows:
    return [{"name": name, "description": load_suite(name).description} for name in suite_names()]


def _pairs() -> Rows:
    rows = []
    for name in pair_names():
        pair = load_pair(name)
        parameters = pair.ar.backbone.total_parameters
        rows.append(
            {"name": name, "parameters": parameters, "weights": _shipped(pair), "description": pair.description}
        )
    return rows


def _shipped(pair: Pair) -> str:
    """What the pair is measured with unless asked otherwise."""
    return RANDOM if pair.default is pair else TRAINED


def _generators() -> Rows:
    rows = [{"name": name, "description": _described(entry)} for name, entry in BUILT_IN.items()]
    installed = [{"name": e.name, "description": f"plug-in: {e.value}"} for e in entry_points(group=ENTRY_POINTS)]
    return [*rows, *installed, {"name": "FILE.py:FACTORY", "description": "a factory in a file or module of yours"}]


def _endpoints() -> Rows:
    """The servers that `dlmbench load` knows by name."""
    rows: Rows = []
    for name, known in presets().items():
        parts = [known.title, known.url or "any URL"]
        parts += [f"key {known.key_env}"] if known.key_env else []
        parts += [known.note] if known.note else []
        rows.append({"name": name, "description": "; ".join(parts)})
    return rows


def _described(entry: BuiltIn) -> str:
    """What it is, then its samplers and caches, the default first."""
    text = entry.description
    if entry.samplers:
        text += f"; samplers {', '.join(entry.samplers)}"
    if len(entry.caches) > 1:
        text += f"; caches {', '.join(entry.caches)}"
    return text


def _devices() -> Rows:
    cpu = read_cpu(affinity=usable_cpus())
    rows: Rows = [{"name": "cpu", "description": str(cpu.get("model") or "CPU")}]
    for index, gpu in enumerate(read_gpus(load_nvml()).get("gpus") or ()):
        rows.append({"name": f"cuda:{index}", "description": str(gpu.get("name"))})
    return rows


def _metrics() -> Rows:
    return [
        {
            "name": metric.name,
            "unit": metric.unit,
            "better": metric.direction,
            "formula": metric.formula,
            "note": metric.note,
        }
        for metric in METRICS.values()
    ]


def show_listing(document: dict[str, Rows], console: Console) -> None:
    """One table a kind."""
    for kind, rows in document.items():
        table = Table(title=kind, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in rows[0]:
            table.add_column(name, overflow="fold", no_wrap=name in ("name", "unit", "better"))
        for row in rows:
            table.add_row(*(Text(f"{v:,}" if isinstance(v, int) else str(v)) for v in row.values()))
        console.print(table)
        console.print()
