"""From trials to evidence: what base and head did, cell by cell, as the decision wants it.

Paired trials (measured in one job: equal names of pairings, samples that alternated) give one log-ratio a pair of fresh
processes, from the rounds that both sides count. Trials of two stored runs give one value a process; the drift of the
machine between them is taken out by the calibrations that both runs hold. Counters are compared where they were counted
on the same prompts and seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from ...profiles.gate import CellEvidence, Counted, Timed
from ...profiles.metrics import declared
from ...profiles.record import Calibration, Cell, PairRecord, Sample, Trial
from ..summary import FROM_SAMPLE

# Counted by the generator or the analytic cost: equal work gives equal numbers on any machine.
_SUMMED = ("nfe", "draft_nfe", "forward_tokens", "canvas_tokens", "output_tokens")
_STATED = ("model_flops", "model_bytes")
_PEAK = "memory_peak_b"
_LAUNCHES = "launches"

Entry = float | int | str | bool | None


def paired_evidence(
    cells: Iterable[Cell], base: Sequence[Trial], head: Sequence[Trial], metrics: Iterable[str]
) -> list[CellEvidence]:
    """Evidence of two sides measured in one job; `metrics` are the timed ones wanted."""
    wanted = tuple(metrics)
    return [_cell(cell, *_of(cell, base, head), wanted, paired=True) for cell in cells]


def unpaired_evidence(
    cells: Iterable[Cell], base: Sequence[Trial], head: Sequence[Trial], metrics: Iterable[str]
) -> list[CellEvidence]:
    """Evidence of two stored runs: their processes have nothing to do with each other."""
    wanted = tuple(metrics)
    return [_cell(cell, *_of(cell, base, head), wanted, paired=False) for cell in cells]


def _of(cell: Cell, base: Sequence[Trial], head: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    key = cell.key
    return [trial for trial in base if trial.key == key], [trial for trial in head if trial.key == key]


def _cell(
    cell: Cell, base: Sequence[Trial], head: Sequence[Trial], metrics: Sequence[str], *, paired: bool
) -> CellEvidence:
    spoiled = _spoiled("base", base) or _spoiled("head", head)
    if spoiled is not None:
        return CellEvidence(key=cell.key, spoiled=spoiled)
    counted = _work(base, head, seeded=paired) + _stated(base, head)
    build = _paired if paired else _unpaired
    timed = [found for name in metrics if (found := build(name, base, head)) is not None]
    if metrics and not timed:
        text = "no process of both sides has a sample of it that counts; see the trials' reasons"
        return CellEvidence(key=cell.key, counted=counted, spoiled=("disturbed", text))
    return CellEvidence(key=cell.key, timed=tuple(timed), counted=counted)


def _spoiled(side: str, trials: Sequence[Trial]) -> tuple[str, str] | None:
    """Why a side cannot be judged: it was not measured, or one of its processes failed or did other work.

    A process whose samples were all disturbed is left out instead: the machine is to blame, and another is measured.
    """
    if not trials:
        return "missing", f"{side} did not measure this cell"
    for trial in trials:
        reason = trial.reason
        disturbed = trial.status == "invalid" and reason is not None and reason.code in _MACHINE
        if trial.status != "ok" and not disturbed:
            told = f"{reason.code}: {reason.message}" if reason else "no reason recorded"
            return trial.status, f"{side}, process {trial.process}: {told}"
    return None


# Codes of an `invalid` trial that say something of the machine, not of the code under test.
_MACHINE = ("disturbed", "throttled", "foreign_process")


def _paired(name: str, base: Sequence[Trial], head: Sequence[Trial]) -> Timed | None:
    """The log-ratio of each pair of processes: the median over the rounds that count on both sides."""
    others = {trial.pairing: trial for trial in head}
    ratios, medians = [], []
    for trial in sorted(base, key=lambda each: each.process):
        other = others.get(trial.pairing)
        if other is None:
            continue
        before, after = _by_round(name, trial), _by_round(name, other)
        rounds = [math.log(after[number] / before[number]) for number in before if number in after]
        if rounds:
            ratios.append(_worse(name) * median(rounds))
            medians.append(median(before.values()))
    if not ratios:
        return None
    return Timed(metric=name, unit=declared(name).unit, base=median(medians), log_ratios=tuple(ratios))


def _by_round(name: str, trial: Trial) -> dict[int, float]:
    """The positive values of a metric by round, of the samples that count."""
    read = FROM_SAMPLE[name]
    found = {sample.round: read(sample, trial.cell) for sample in trial.counted()}
    return {number: value for number, value in found.items() if value is not None and value > 0}


def _unpaired(name: str, base: Sequence[Trial], head: Sequence[Trial]) -> Timed | None:
    sides = [{t.process: v.values() for t in side if (v := _by_round(name, t))} for side in (base, head)]
    if not all(sides):
        return None
    sign = _worse(name)
    logs = [tuple(sign * math.log(median(values)) for values in side.values()) for side in sides]
    middle = median(median(values) for values in sides[0].values())
    return Timed(metric=name, unit=declared(name).unit, base=middle, base_logs=logs[0], head_logs=logs[1])


def _worse(name: str) -> int:
    """1 where a larger value is worse, -1 where a smaller one is."""
    return -1 if declared(name).direction == "higher" else 1


def _work(base: Sequence[Trial], head: Sequence[Trial], *, seeded: bool) -> tuple[Counted, ...]:
    """Forwards and tokens, summed over samples of equal prompts and seeds on both sides.

    Of two stored runs, which may have taken other prompts, the medians are compared where every sample agrees.
    """
    sides = (_by_request(base), _by_request(head))
    common = sorted(sides[0].keys() & sides[1].keys())
    found = []
    for name in _SUMMED:
        if seeded and common:
            values = [float(sum(getattr(side[request], name) for request in common)) for side in sides]
        else:
            sets = [{getattr(sample, name) for sample in side.values()} for side in sides]
            if any(len(each) != 1 for each in sets):
                continue
            values = [float(each.pop()) for each in sets]
        found.append(Counted(name=name, base=values[0], head=values[1], direction=declared(name).direction))
    return tuple(found)


def _by_request(trials: Sequence[Trial]) -> dict[tuple[int, int], Sample]:
    """Samples by (prompt, seed): discarded ones did their work too."""
    return {(sample.prompt, sample.seed): sample for trial in trials for sample in trial.samples}


def _stated(base: Sequence[Trial], head: Sequence[Trial]) -> tuple[Counted, ...]:
    """Analytic FLOPs and bytes, the peak of memory (the median over processes), and launches under an equal torch."""
    names = [*_STATED, _PEAK]
    versions = {trial.worker.torch for trial in (*base, *head) if trial.worker is not None}
    found = []
    for name in names:
        values = [_median_counter(side, name) for side in (base, head)]
        if values != [None, None]:
            direction = declared(name).direction
            found.append(Counted(name=name, base=values[0], head=values[1], direction=direction))
    launched = [_launches(side) for side in (base, head)]
    if len(versions) == 1 and None not in launched:
        found.append(Counted(name=_LAUNCHES, base=launched[0], head=launched[1], direction="lower"))
    return tuple(found)


def _median_counter(trials: Sequence[Trial], name: str) -> float | None:
    values = [value for trial in trials if isinstance(value := trial.counters.get(name), int | float)]
    return float(median(values)) if values else None


def _launches(trials: Sequence[Trial]) -> float | None:
    profiles = [t.hardware.kernels for t in trials if t.hardware is not None and t.hardware.kernels is not None]
    return float(profiles[0].launches) if profiles else None


def certificate_evidence(base: Sequence[PairRecord], head: Sequence[PairRecord]) -> list[CellEvidence]:
    """A pair's match certificate as evidence of its own: every quantity of both sides, numbers exactly, words as such.

    A word that differs is counted as 0 at base and 1 at head.
    """
    others = {pair.name: pair for pair in head}
    found = []
    for pair in base:
        other = others.get(pair.name)
        if other is None:
            continue
        rows = {row.quantity: row for row in other.certificate}
        counted = [
            quantity(f"{row.quantity} ({side})", getattr(row, side), getattr(rows[row.quantity], side))
            for row in pair.certificate
            if row.quantity in rows
            for side in ("ar", "diffusion")
        ]
        found.append(CellEvidence(key=f"certificate of {pair.name}", timeless=True, counted=tuple(counted)))
    return found


def quantity(name: str, before: Entry, after: Entry) -> Counted:
    """One quantity at base and at head: numbers as they are, anything else as 0 and 1 where it differs."""
    numbers = [x for x in (before, after) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == 2:
        return Counted(name=name, base=float(numbers[0]), head=float(numbers[1]), direction="neutral")
    differs = before != after
    told = f"{name}: {before} became {after}" if differs else name
    return Counted(name=told, base=0.0, head=float(differs), direction="neutral")


def drift(base: Sequence[Trial], head: Sequence[Trial]) -> Mapping[str, float]:
    """How much faster the machine was at head than at base, by what limits a cell: `matmul` and `read`, as ratios.

    Calibrations of either run are pooled by their median, so that one disturbed moment says nothing.
    """
    rates: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])
    for index, trials in enumerate((base, head)):
        for seen in _calibrations(trials):
            rates["matmul"][index].append(seen.matmul_flop_s)
            rates["read"][index].append(seen.read_b_s)
    return {name: median(after) / median(before) for name, (before, after) in rates.items() if before and after}


def _calibrations(trials: Sequence[Trial]) -> list[Calibration]:
    seen: dict[str, list[Calibration]] = {}
    for trial in trials:
        # All trials of a pairing hold the same two.
        both = (trial.calibration_before, trial.calibration_after)
        seen[trial.pairing] = [each for each in both if each is not None]
    return [each for calibrations in seen.values() for each in calibrations]


def without_drift(evidence: Sequence[CellEvidence], base: Sequence[Trial], head: Sequence[Trial]) -> list[CellEvidence]:
    """Unpaired evidence as if the machine had been as fast at head as at base.

    A cell is held to the rate that its own work at base asks more of: the matrix product or the read.
    """
    ratios = drift(base, head)
    limits = {trial.key: limit for trial in base if (limit := _limit(trial)) is not None}
    found = []
    for cell in evidence:
        ratio = ratios.get(limits.get(cell.key, ""))
        if ratio is None:
            found.append(cell)
            continue
        # A machine that was faster at head hides a slowdown: times are scaled up by as much.
        timed = [
            each.model_copy(update={"head_logs": tuple(x + math.log(ratio) for x in each.head_logs)})
            for each in cell.timed
        ]
        found.append(cell.model_copy(update={"timed": tuple(timed)}))
    return found


def _limit(trial: Trial) -> str | None:
    flops, moved = trial.counters.get("model_flops"), trial.counters.get("model_bytes")
    peak = trial.calibration_before or trial.calibration_after
    if peak is None or not isinstance(flops, int | float) or not isinstance(moved, int | float):
        return None
    return "matmul" if flops / peak.matmul_flop_s > moved / peak.read_b_s else "read"
