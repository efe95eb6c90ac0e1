"""From trials to measurements: each metric of each cell over its processes, and what is derived across a pair.

A process contributes one value: the median over its counted samples. A ratio of two cells is formed round by round
from samples that alternated, so that what slows both cancels, and again one value a process.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median, quantiles

from ..models.names import AR, HF_DYNAMIC, HF_STATIC
from ..profiles.hardware import Datasheet
from ..profiles.record import Cell, Measurement, Reason, Sample, Trial, Value
from .counted_hardware import hardware_values
from .equal_quality import add_cache_prices, add_equal_quality
from .statistics import crossing, over_processes, within_process

_Read = Callable[[Sample, Cell], float | None]


def _per_row(sample: Sample) -> float:
    """Output tokens of a row: the median over rows."""
    return float(median(sample.rows_tokens)) if sample.rows_tokens else 0.0


def _tpot(sample: Sample, cell: Cell) -> float | None:
    tokens = _per_row(sample)
    return None if sample.ttft_s is None or tokens < 2 else (sample.latency_s - sample.ttft_s) / (tokens - 1)


FROM_SAMPLE: dict[str, _Read] = {
    "latency_s": lambda s, c: s.latency_s,
    "throughput_tok_s": lambda s, c: s.output_tokens / s.latency_s,
    "tok_s_user": lambda s, c: s.output_tokens / s.latency_s / c.batch,
    "ttft_s": lambda s, c: s.ttft_s,
    "ttfb_s": lambda s, c: s.ttfb_s,
    "block_latency_s": lambda s, c: s.block_latency_s,
    "itl_s": lambda s, c: s.itl_s,
    "itl_p99_s": lambda s, c: s.itl_p99_s,
    "e2e_per_token_s": lambda s, c: s.latency_s / _per_row(s) if _per_row(s) else None,
    "tpot_s": _tpot,
    "prefill_s": lambda s, c: s.prefill_s,
    "forward_s": lambda s, c: s.forward_s,
    "sampling_s": lambda s, c: s.sampling_s,
    "idle_s": lambda s, c: s.idle_s,
    "output_tokens": lambda s, c: s.output_tokens,
    "canvas_tokens": lambda s, c: s.canvas_tokens,
    "nfe": lambda s, c: s.nfe,
    "draft_nfe": lambda s, c: s.draft_nfe or None,
    "forward_tokens": lambda s, c: s.forward_tokens,
    "tokens_per_forward": lambda s, c: _per_row(s) / s.nfe if s.nfe else None,
}

_ABSENT = {
    "ttft_s": "position 0 was never committed in a sample",
    "ttfb_s": "the first block was never committed whole in a sample",
    "block_latency_s": "one block, or AR, which commits single tokens (see itl_s)",
    "itl_s": "diffusion has no inter-token latency: positions are committed in any order",
    "itl_p99_s": "AR only, from 100 gaps a sample on: fewer do not show a 99th percentile",
    "tpot_s": "needs two or more tokens",
    "draft_nfe": "no draft network",
    "cache_logit_distance": "no approximate cache",
    "cache_argmax_changed": "no approximate cache",
    "cache_tokens_changed": "no approximate cache",
    "tokens_per_forward": "no forward was announced",
    "e2e_per_token_s": "no token was emitted",
    "model_flops": "the generator states no analytic cost",
    "model_bytes": "the generator states no analytic cost",
    "arithmetic_intensity": "the generator states no analytic cost",
    "mfu": "needs an analytic cost and a calibration",
    "mbu": "needs an analytic cost and a calibration",
    "roofline_fraction": "needs an analytic cost and a calibration",
    "floor_latency_s": "needs an analytic cost and a calibration",
    "ceiling_tok_s": "needs an analytic cost and a calibration",
    "mfu_datasheet": "no datasheet of this device, or none of this dtype (profiles/devices.toml)",
    "mbu_datasheet": "no datasheet of this device (profiles/devices.toml)",
    "memory_peak_b": "this system does not tell a process its peak memory",
    "prepare_s": "not recorded",
    "observer_share": "not recorded",
    "outlier_share": "fewer than eight samples a process",
}


_AUDITED = ("cache_logit_distance", "cache_argmax_changed", "cache_tokens_changed")


def measurements(
    trials: Sequence[Trial],
    own: Mapping[str, str] | None = None,
    datasheet: Datasheet | None = None,
    plan: Sequence[Sequence[Cell]] = (),
) -> list[Measurement]:
    """One measurement a cell, in the order of the plan; cells that it does not name follow as they were measured.

    `own` maps a pair to its AR generator: it and transformers' generate on the same weights may be the reference of a
    speed-up. Another checkpoint or a plug-in is measured beside them and never becomes the reference.
    `datasheet` is the maker's word on the device, if it is known.
    """
    by_key: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_key[trial.key].append(trial)
    ranks = {cell.key: rank for rank, cell in enumerate(cell for cells in plan for cell in cells)}
    keys = sorted(by_key, key=lambda key: ranks.get(key, len(ranks)))
    measured = {key: _measure(by_key[key], datasheet) for key in keys}
    best = _fastest_ar(measured.values(), own or {})
    _add_speedups(measured, by_key, best)
    _add_crossovers(measured, best)
    flattered = {trial.key for trial in trials if trial.quality is not None and trial.quality.flattered is not None}
    add_equal_quality(measured, {m.key: _rivals(m, measured.values()) for m in best.values()}, flattered)
    add_cache_prices(measured, lambda key, twin: _ratio(by_key[key], by_key[twin]))
    return list(measured.values())


def _measure(trials: Sequence[Trial], datasheet: Datasheet | None) -> Measurement:
    cell = trials[0].cell
    good = [trial for trial in trials if trial.status == "ok" and trial.counted()]
    if not good:
        worst = trials[-1]
        why = worst.reason or Reason(code="no_samples", message="no sample was taken")
        status = worst.status if worst.status != "ok" else "failed"
        return Measurement(cell=cell, key=cell.key, status=status, reason=why)
    reason = None
    lost = [trial for trial in trials if trial.status != "ok" or not trial.counted()]
    if lost:
        text = lost[0].reason.message if lost[0].reason else "no sample was taken"
        reason = Reason(code="partly_failed", message=f"{len(lost)} of {len(trials)} processes gave nothing: {text}")
    metrics = {name: _sampled(name, read, good) for name, read in FROM_SAMPLE.items()}
    metrics |= _curve(good)
    metrics |= _counted(good, datasheet)
    metrics |= hardware_values([trial for trial in good if trial.hardware is not None])
    judged = next((trial.quality for trial in good if trial.quality is not None), None)
    if judged is not None:
        metrics |= judged.metrics
    return Measurement(cell=cell, key=cell.key, status="ok", reason=reason, metrics=metrics)


def _sampled(name: str, read: _Read, trials: Sequence[Trial]) -> Value:
    """A metric of samples: the median of each process, then over processes."""
    medians, within = [], None
    for trial in trials:
        values = [v for sample in trial.counted() if (v := read(sample, trial.cell)) is not None]
        if len(values) == len(trial.counted()):
            medians.append(float(median(values)))
            within = within_process(values)
    if not medians:
        return Value(value=None, why=_ABSENT.get(name, "not recorded"))
    return over_processes(medians, within if len(trials) == 1 else None)


def _curve(trials: Sequence[Trial]) -> dict[str, Value]:
    """time_to_k_s[k] for every k that all counted samples reached."""
    ks = set.intersection(*({*sample.time_to_k_s} for trial in trials for sample in trial.counted()))
    return {
        f"time_to_k_s[{k}]": _sampled("time_to_k_s", lambda s, c, k=k: s.time_to_k_s[k], trials)  # type: ignore[misc]
        for k in sorted(ks, key=int)
    }


def _counted(trials: Sequence[Trial], datasheet: Datasheet | None) -> dict[str, Value]:
    """Metrics that join a process's counters and calibration with its median latency."""
    columns: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        latency = float(median(sample.latency_s for sample in trial.counted()))
        for name, value in _joined(trial, latency, datasheet).items():
            if value is not None:
                columns[name].append(value)
    names = (
        "model_flops", "model_bytes", "arithmetic_intensity", "mfu", "mbu", "roofline_fraction", "floor_latency_s",
        "ceiling_tok_s", "mfu_datasheet", "mbu_datasheet",
    )  # fmt: skip
    return {
        name: over_processes(columns[name]) if columns[name] else Value(value=None, why=_ABSENT[name])
        for name in (
            *names,
            "memory_peak_b",
            "prepare_s",
            "observer_share",
            "outlier_share",
            "discarded_share",
            *_AUDITED,
        )
    }


def _outlier_share(values: Sequence[float]) -> float | None:
    """The share of values beyond Tukey's outer fences, three interquartile ranges from the quartiles."""
    if len(values) < 8:
        return None
    low, _, high = quantiles(values, method="inclusive")
    reach = 3 * (high - low)
    return sum(not low - reach <= value <= high + reach for value in values) / len(values)


def _joined(trial: Trial, latency: float, datasheet: Datasheet | None) -> dict[str, float | None]:
    flops, moved, floor = (_number(trial, name) for name in ("model_flops", "model_bytes", "floor_s"))
    peaks = [peak for peak in (trial.calibration_before, trial.calibration_after) if peak is not None]
    flop_s = max((peak.matmul_flop_s for peak in peaks), default=None)
    byte_s = max((peak.read_b_s for peak in peaks), default=None)
    stated_flop_s = None if datasheet is None else datasheet.matmul_flop_s.get(trial.cell.dtype)
    stated_byte_s = None if datasheet is None else datasheet.memory_b_s
    tokens = median(sample.output_tokens for sample in trial.counted())
    floor = floor if peaks else None
    unit = _number(trial, "observer_unit_cost_s")
    events = median(sample.observer_events for sample in trial.counted())
    return {
        "model_flops": flops,
        "model_bytes": moved,
        "arithmetic_intensity": flops / moved if flops is not None and moved else None,
        "mfu": flops / latency / flop_s if flops is not None and flop_s else None,
        "mbu": moved / latency / byte_s if moved is not None and byte_s else None,
        "roofline_fraction": floor / latency if floor is not None else None,
        "floor_latency_s": floor,
        "ceiling_tok_s": tokens / floor if floor else None,
        "mfu_datasheet": flops / latency / stated_flop_s if flops is not None and stated_flop_s else None,
        "mbu_datasheet": moved / latency / stated_byte_s if moved is not None and stated_byte_s else None,
        "memory_peak_b": _number(trial, "memory_peak_b"),
        "prepare_s": trial.prepare_s,
        "observer_share": None if unit is None else events * unit / latency,
        "outlier_share": _outlier_share([sample.latency_s for sample in trial.counted()]),
        "discarded_share": 1 - len(trial.counted()) / len(trial.samples),
        **{name: _number(trial, name) for name in _AUDITED},
    }


def _number(trial: Trial, name: str) -> float | None:
    value = trial.counters.get(name)
    return float(value) if isinstance(value, int | float) else None


def _comparable(cell: Cell) -> tuple[object, ...]:
    """Cells that may be compared: the same shape, dtype, draw settings and length policy."""
    decode = cell.decode
    return (*cell.shape, cell.dtype, cell.length_policy, decode.temperature, decode.top_k, decode.top_p)


_Best = dict[tuple[object, ...], Measurement]


def _fastest_ar(measured: Iterable[Measurement], own: Mapping[str, str]) -> _Best:
    """Per comparable group, the pair's AR cell of highest throughput, whatever its engine and kernel."""
    best: _Best = {}
    for m in measured:
        matched = m.cell.generator in (own.get(m.cell.pair, AR), HF_DYNAMIC, HF_STATIC)
        if m.cell.side != "ar" or m.status != "ok" or not matched:
            continue
        group = _comparable(m.cell)
        if group not in best or _value(m, "throughput_tok_s") > _value(best[group], "throughput_tok_s"):
            best[group] = m
    return best


def _rivals(reference: Measurement, measured: Iterable[Measurement]) -> list[Measurement]:
    """The diffusion cells that an AR cell may be compared with."""
    group = _comparable(reference.cell)
    return [m for m in measured if m.cell.side == "diffusion" and m.status == "ok" and _comparable(m.cell) == group]


def _value(m: Measurement, name: str) -> float:
    value = m.metrics[name].value
    return -math.inf if value is None else value


def _add_speedups(measured: dict[str, Measurement], by_key: dict[str, list[Trial]], best: _Best) -> None:
    for key, m in measured.items():
        if m.status != "ok":
            continue
        reference = best.get(_comparable(m.cell))
        if reference is None:
            value = Value(value=None, why="no AR cell of this shape was measured")
        elif reference.key == key:
            value = Value(value=1.0, low=1.0, high=1.0, n=m.metrics["latency_s"].n, level=m.metrics["latency_s"].level)
        else:
            value = _ratio(by_key[key], by_key[reference.key])
        measured[key] = m.model_copy(update={"metrics": {**m.metrics, "speedup": value}})


def _ratio(trials: Sequence[Trial], reference: Sequence[Trial]) -> Value:
    """Throughput ratio from samples of the same round, whose machine is the same: a median a process, then over these.

    Where the two sides could only run one after the other, the ratio of the process medians.
    """
    others = {trial.pairing: trial for trial in reference}
    medians, within = [], None
    for trial in trials:
        other = others.get(trial.pairing)
        if other is None or not other.counted() or not trial.counted():
            continue
        mine, base = ({s.round: s.output_tokens / s.latency_s for s in t.counted()} for t in (trial, other))
        if trial.alternation == "block":
            ratios = [median(mine.values()) / median(base.values())]
        else:
            ratios = [mine[number] / base[number] for number in mine if base.get(number)]
        if ratios:
            medians.append(float(median(ratios)))
            within = within_process(ratios)
    if not medians:
        return Value(value=None, why="the two cells share no round")
    return over_processes(medians, within if len(medians) == 1 else None)


def _add_crossovers(measured: dict[str, Measurement], best: _Best) -> None:
    diffusion = [m for m in measured.values() if m.cell.side == "diffusion" and m.status == "ok"]
    for group, reference in best.items():
        if reference.cell.length_policy != "fixed":
            continue
        rivals = [m for m in diffusion if _comparable(m.cell) == group]
        value = _crossover(rivals, [round(m.metrics["nfe"].value or m.cell.steps or m.cell.length) for m in rivals])
        _add(measured, reference.key, "crossover_steps", value)
    lines: dict[tuple[object, ...], list[Measurement]] = defaultdict(list)
    for m in diffusion:
        if m.cell.length_policy == "fixed":
            lines[(m.cell.model_copy(update={"batch": 1}).key,)].append(m)
    for line in lines.values():
        line.sort(key=lambda m: m.cell.batch)
        value = _crossover(line, [m.cell.batch for m in line])
        _add(measured, line[0].key, "crossover_batch", value)


def _crossover(cells: Sequence[Measurement], x: Sequence[int]) -> Value:
    """Where the speed-up crosses 1 along an axis; the interval is where the speed-up's own bounds cross it.

    At equal x the fastest cell counts (engines, kernels, blocks).
    """
    fastest: dict[int, Value] = {}
    for at, m in zip(x, cells, strict=True):
        value = m.metrics["speedup"]
        if value.value and (at not in fastest or value.value > (fastest[at].value or 0.0)):
            fastest[at] = value
    if len(fastest) < 2:
        return Value(value=None, why="needs two or more points along the axis")
    axis, values = list(fastest), list(fastest.values())
    speedups = [value.value or 1.0 for value in values]
    at_one = crossing(axis, speedups, 1.0)
    if at_one is None:
        side = "all: diffusion is faster" if min(speedups) > 1 else "none: AR is faster"
        return Value(value=None, n=len(axis), why=f"{side} at every point measured along the axis")
    low = crossing(axis, [v.low or 1e-12 if v.low is not None else v.value or 1.0 for v in values], 1.0)
    high = crossing(axis, [v.high if v.high is not None else v.value or 1.0 for v in values], 1.0)
    levels = {value.level for value in values}
    if low is None or high is None:
        return Value(value=at_one, n=len(axis), why="its interval leaves the measured axis")
    return Value(
        value=at_one,
        low=min(low, high),
        high=max(low, high),
        n=len(axis),
        level=levels.pop() if len(levels) == 1 else None,
    )


def _add(measured: dict[str, Measurement], key: str, name: str, value: Value) -> None:
    m = measured[key]
    measured[key] = m.model_copy(update={"metrics": {**m.metrics, name: value}})
