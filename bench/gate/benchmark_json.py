"""pytest-benchmark's JSON as a side of the gate: its own files, and those that `dlmbench report` exports.

    dlmbench gate --baseline main-1.json … --baseline main-6.json --current branch-1.json … --current branch-6.json

pytest-benchmark takes all rounds of a benchmark in one process, so one of its files is one process, however many rounds
it holds, and a single file is always too little to judge times by (the gate wants six processes a side): by design it
is inconclusive. Run pytest six times with --benchmark-save-data and give all six files. A file that dlmbench exported
says itself which rounds belong to which process.

A benchmark is a cell: its full name, or the cell's key where dlmbench wrote it. Its time is `latency_s`. Evidence is
unpaired: nothing here alternated, and no calibration tells how fast the machine was, so times of different machines
are refused and not compared.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ... import InputError
from ...profiles.gate import CellEvidence, Timed
from ...profiles.gate_record import GateSide
from ...profiles.store import StoredRun, read_run

METRIC, UNIT = "latency_s", "s"


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """One side's times: by cell, the median of each process in seconds. `machine` is what must be equal on both sides;
    `commit`, `python` and `torch` are what the files say, None where they do not or disagree."""

    medians: Mapping[str, tuple[float, ...]]
    machine: Mapping[str, str]
    commit: str | None = None
    python: str | None = None
    torch: str | None = None


def read_benchmarks(paths: Sequence[Path]) -> Benchmarks:
    """The files of one side. Raises InputError, in one line, for anything that is not such a file with raw data."""
    if not paths:
        raise InputError("no pytest-benchmark file was given; expected at least one")
    documents: list[dict[str, Any]] = []
    machine: dict[str, str] = {}
    found: dict[str, list[float]] = defaultdict(list)
    for path in paths:
        document = _document(path)
        if document in documents:
            raise InputError(f"{path}: given twice; every file must be a process of its own")
        documents.append(document)
        here = _machine(_section(document, "machine_info"))
        if clash := _clash(machine, here):
            raise InputError(f"{path}: another machine than the files before it ({clash}); give files of one machine")
        machine |= here
        for key, medians in _medians(path, document["benchmarks"]).items():
            found[key] += medians
    info = [_section(document, "machine_info") for document in documents]
    return Benchmarks(
        medians={key: tuple(values) for key, values in found.items()},
        machine=machine,
        commit=_agreed(_section(document, "commit_info").get("id") for document in documents),
        python=_agreed(entry.get("python_version") for entry in info),
        torch=_agreed(entry.get("torch") for entry in info),
    )


def are_files(paths: Sequence[Path]) -> bool:
    """Whether a side of the command line is given as files; a run is one folder."""
    return len(paths) > 1 or paths[0].is_file()


def benchmarks_from(paths: Sequence[Path]) -> Benchmarks:
    """One side as the command line names it: a run's folder, or files. Raises InputError where it is neither."""
    return read_benchmarks(paths) if are_files(paths) else benchmarks_of(read_run(paths[0]))


def gate_side(paths: Sequence[Path], side: Benchmarks) -> GateSide:
    """The side as the gate's document names it."""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return GateSide(name=f"{paths[0]}{more}", commit=side.commit, torch=side.torch, python=side.python)


def benchmarks_of(stored: StoredRun) -> Benchmarks:
    """A run as if its times had been read from a file, to be compared with one."""
    found: dict[str, list[float]] = defaultdict(list)
    for trial in stored.trials:
        if trial.status == "ok" and trial.counted():
            found[trial.key].append(median(sample.latency_s for sample in trial.counted()))
    workers = [trial.worker for trial in stored.trials if trial.worker]
    info = {"device_name": stored.run.device_name, "environment": stored.run.environment}
    return Benchmarks(
        medians={key: tuple(values) for key, values in found.items()},
        machine=_machine(info),
        commit=_agreed(worker.commit for worker in workers),
        python=_agreed(worker.python for worker in workers),
        torch=_agreed(worker.torch for worker in workers),
    )


def benchmark_evidence(base: Benchmarks, head: Benchmarks) -> list[CellEvidence]:
    """Unpaired evidence: every cell of either side; one that a side lacks, or that lies on another machine, is
    spoiled."""
    clash = _clash(base.machine, head.machine)
    evidence = []
    for key in dict.fromkeys([*base.medians, *head.medians]):
        sides = (base.medians.get(key), head.medians.get(key))
        if clash:
            text = f"base and head were measured on different machines ({clash}): their times do not compare"
            evidence.append(CellEvidence(key=key, spoiled=("other_machine", text)))
        elif sides[0] is None or sides[1] is None:
            side = "base" if sides[0] is None else "head"
            evidence.append(CellEvidence(key=key, spoiled=("missing", f"{side} did not measure this cell")))
        else:
            logs = [tuple(math.log(value) for value in side) for side in (sides[0], sides[1])]
            timed = Timed(metric=METRIC, unit=UNIT, base=median(sides[0]), base_logs=logs[0], head_logs=logs[1])
            evidence.append(CellEvidence(key=key, timed=(timed,)))
    return evidence


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); expected a file of pytest-benchmark") from None
    entries = document.get("benchmarks") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: no list `benchmarks`; expected a file of pytest-benchmark or of dlmbench report")
    if not entries:
        raise InputError(f"{path}: it holds no benchmark; run pytest with --benchmark-json or --benchmark-save")
    return dict(document)


def _medians(path: Path, entries: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """By cell, the median of each process."""
    found: dict[str, list[float]] = {}
    for number, entry in enumerate(entries):
        extra = _section(entry, "extra_info")
        key = extra.get("key", entry.get("fullname"))
        if not isinstance(key, str) or not key:
            raise InputError(f"{path}: benchmarks.{number} has no fullname; expected a file of pytest-benchmark")
        if key in found:
            raise InputError(f"{path}: benchmarks.{number} is a second {key!r}; expected each name once a file")
        data = _section(entry, "stats").get("data")
        if not data:
            how = "save it again with --benchmark-save-data or --benchmark-json"
            raise InputError(f"{path}: benchmarks.{number} has no raw data (stats.data); {how}")
        if not isinstance(data, list) or not all(_is_time(value) for value in data):
            raise InputError(f"{path}: benchmarks.{number}.stats.data: expected positive numbers of seconds")
        found[key] = [median(part) for part in _by_process(f"{path}: benchmarks.{number}", data, extra)]
    return found


def _by_process(place: str, data: list[float], extra: Mapping[str, Any]) -> list[list[float]]:
    """The rounds of each process: those that dlmbench noted, else all of them are one's."""
    noted = extra.get("process_rounds")
    if noted is None:
        return [data]
    entries = noted if isinstance(noted, list) else []
    rounds = [entry.get("rounds") if isinstance(entry, dict) else None for entry in entries]
    counts = [count for count in rounds if isinstance(count, int) and count > 0]
    if not counts or len(counts) < len(rounds) or sum(counts) != len(data):
        raise InputError(
            f"{place}.extra_info.process_rounds does not add up to its {len(data)} rounds; export it again"
        )
    parts, begin = [], 0
    for count in counts:
        parts.append(data[begin : begin + count])
        begin += count
    return parts


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _machine(info: Mapping[str, Any]) -> dict[str, str]:
    """What tells two machines apart, as far as the file says it: processor and measured device, never the host's name
    (a fresh one in every job)."""
    environment = _section(info, "environment")
    named = {
        "processor": _section(environment, "cpu").get("model") or _section(info, "cpu").get("brand_raw"),
        "device": info.get("device_name"),
        "system": _section(environment, "system").get("system") or info.get("system"),
    }
    return {name: value for name, value in named.items() if isinstance(value, str) and value}


def _clash(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """What both name and name differently, in words; empty where they agree."""
    names = [name for name in one if name in other and one[name] != other[name]]
    return "; ".join(f"{name} {one[name]} against {other[name]}" for name in names)


def _agreed(values: Iterable[object]) -> str | None:
    """The one text that all values are; None where they differ or are none (pytest-benchmark writes "unknown")."""
    texts = [value if isinstance(value, str) and value != "unknown" else None for value in values]
    return texts[0] if texts and len(set(texts)) == 1 else None
