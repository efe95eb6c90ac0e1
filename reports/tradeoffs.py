"""The lesson's trade-offs between AR and diffusion: what is claimed, what this run measured, and whether that holds.

A verdict is about this machine, these models and this run. It follows from the measured numbers by the rule that the
row's function states; where the run lacks the numbers, the row says which command gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ..profiles.record import Commit, Value
from ..profiles.studies import Studies
from .format import format_number, format_value, metric_header
from .study import Point, Shape, Study
from .training_forward import training_forward_flops

Verdict = Literal["holds", "in part", "does not hold", "not measured"]

QUALITY = "quality.validity"
_LESSON = "dlmbench run lesson"
# Of which "utilisation" the claim speaks is not said: the first is what was computed, the others what ran.
_UTILISATION = ("mfu", "tensor_active", "sm_active", "kernel_busy")
_AR_BAND, _DIFFUSION_BAND = (0.10, 0.20), (0.60, 0.90)


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """One row: the lesson's claims for both sides, what was measured, the verdict and the reason for it."""

    aspect: str
    claim: str
    measured: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rows look at: a pair's shortest shape, its AR point, diffusion points from most steps to fewest."""

    study: Study
    pair: str
    shape: Shape
    ar: Point
    diffusion: tuple[Point, ...]
    studies: Studies | None

    @property
    def middle(self) -> Point:
        """The point nearest T = L / 4, at which a speed-up is usually claimed."""
        return min(self.diffusion, key=lambda p: abs(p.steps - p.length / 4))


def tradeoffs(study: Study, pair: str) -> tuple[Tradeoff, ...]:
    """The table of a pair; empty where the texts of none of its cells were judged, or one side is missing."""
    for shape in study.shapes:
        ar, diffusion = study.ar(shape), study.diffusion(shape)
        if shape[0] == pair and ar is not None and diffusion and ar.value(QUALITY):
            seen = _Seen(study, pair, shape, ar, diffusion, study.stored.studies.get(pair))
            return tuple(row(seen) for row in _ROWS)
    return ()


def _direction(seen: _Seen) -> Tradeoff:
    """Holds where AR's order of commits is the text's, and diffusion's agrees with it in less than 0.9 of pairs."""
    aspect, claim = "generation direction", "AR writes from left to right; diffusion writes all positions in any order"
    orders = {name: _agreement(seen, point) for name, point in (("ar", seen.ar), ("diffusion", seen.middle))}
    ar, diffusion = orders["ar"], orders["diffusion"]
    if ar is None or diffusion is None:
        return _unmeasured(aspect, claim, "a timeline of both sides is missing")
    measured = (
        f"of two positions the left one was written first in {format_number(ar, '%')} of pairs under AR, in "
        f"{format_number(diffusion, '%')} under diffusion at T = {seen.middle.steps}"
    )
    if ar < 1:
        return Tradeoff(aspect, claim, measured, "does not hold", "AR committed a position before one to its left")
    if diffusion < 0.9:
        return Tradeoff(aspect, claim, measured, "holds", "the order of commits is the algorithm's, not the text's")
    why = "this sampler wrote nearly left to right (small blocks, or a confidence that follows the reading order)"
    return Tradeoff(aspect, claim, measured, "in part", why)


def _agreement(seen: _Seen, point: Point) -> float | None:
    """Share of pairs of positions of which the left one was committed at an earlier step; AR's commits are steps."""
    line = next((t.timeline for t in seen.study.trials(point) if t.timeline is not None), None)
    if line is None:
        return None
    step = _first_final(line.commits)
    pairs = list(combinations(sorted(step), 2))
    return sum(step[a] < step[b] for a, b in pairs) / len(pairs) if pairs else None


def _first_final(commits: tuple[Commit, ...]) -> dict[int, int]:
    steps: dict[int, int] = {}
    for commit in commits:
        if commit.final:
            for position in commit.positions:
                steps.setdefault(position, commit.step)
    return steps


def _steps(seen: _Seen) -> Tradeoff:
    """Holds where some T below L is as good as AR; in part where forwards are fewer but no such T is."""
    aspect, claim = "steps for L tokens", "AR takes L serial steps, diffusion T, far fewer than L"
    middle = seen.middle
    work = middle.number("forward_tokens") / seen.ar.number("forward_tokens")
    enough = seen.ar.measurement.metrics.get("steps_at_equal_quality")
    measured = (
        f"for {seen.ar.length} tokens AR ran {seen.ar.number('nfe'):.0f} forwards, diffusion "
        f"{middle.number('nfe'):.0f} at T = {middle.steps}, which computed {work:.2g} times as many positions"
    )
    if enough is not None and enough.value is not None:
        measured += f"; texts as good as AR's from T = {enough.value:.0f}"
        if enough.value < seen.ar.length:
            return Tradeoff(aspect, claim, measured, "holds", "and fewer steps than tokens were enough")
        return Tradeoff(aspect, claim, measured, "in part", "as good as AR only at as many steps as tokens")
    return Tradeoff(aspect, claim, measured, "in part", "fewer forwards, but no measured T is shown to write as well")


def _step(seen: _Seen) -> Tradeoff:
    """Holds where a forward of diffusion takes within a tenth of a training forward's FLOPs, in part within a half to
    twice of them: those of the pair's AR network, causal, over the same tokens and with all their logits."""
    aspect, claim = "work of a step", "a denoising step is arithmetically a training forward pass"
    point = seen.middle
    cell = point.measurement.cell
    positions = cell.prompt_length + cell.length
    record = next((pair for pair in seen.study.stored.run.pairs if pair.name == seen.pair), None)
    training = record and training_forward_flops(record.certificate, cell.batch, positions)
    if not training or not point.value("model_flops"):
        return _unmeasured(aspect, claim, "no analytic FLOPs, or no shape in the pair's certificate")
    drafts = point.number("draft_nfe") if point.value("draft_nfe") else 0.0
    forwards = point.number("nfe") + drafts
    flops, fed = point.number("model_flops") / forwards, point.number("forward_tokens") / forwards / cell.batch
    ratio = flops / training
    intensities = [format_number(p.number("arithmetic_intensity"), "FLOP/B") for p in (point, seen.ar)]
    measured = (
        f"a forward of diffusion at T = {point.steps} takes {format_number(flops, 'FLOP')} on average, {ratio:.2g} "
        f"times a training forward of the AR network over the {positions} positions of a row; {intensities[0]}, and "
        f"AR's generation {intensities[1]}"
    )
    if 0.9 <= ratio <= 1.1:
        return Tradeoff(aspect, claim, measured, "holds", "the same products over the same positions")
    if fed < 0.99 * positions:
        why = f"a forward feeds {fed:.3g} positions of each row and keeps the others' keys and values"
    elif fed > 1.01 * positions:
        why = f"a forward feeds {fed:.3g} positions for each row"
    elif ratio < 1:
        why = "the same positions, but logits only where tokens are chosen"
    else:
        why = "the same positions, but all of them attend to all"
    return Tradeoff(aspect, claim, measured, "in part" if 0.5 <= ratio <= 2 else "does not hold", why)


def _utilisation(seen: _Seen) -> Tradeoff:
    """Held against MFU, and against the tensor cores' own counter where there is one.

    Holds where by each of them AR's whole interval lies within 10 to 20 % and diffusion's within 60 to 90 %. In part
    where that is so by one of them or by another definition of utilisation, where only the points lie there, or where
    diffusion uses more of the device than AR by more than the intervals allow.
    """
    aspect, claim = "compute utilisation", "about 15 % for AR at batch 1, 70 to 80 % for diffusion"
    known = {name: (a, d) for name in _UTILISATION if (a := seen.ar.value(name)) and (d := seen.middle.value(name))}
    if "mfu" not in known:
        return _unmeasured(aspect, claim, "no analytic FLOPs or no calibration")
    ar, diffusion = known["mfu"]
    measured = (
        f"{format_value('mfu', ar)} for AR, {format_value('mfu', diffusion)} for diffusion at T = {seen.middle.steps} "
        f"at batch {seen.shape[3]}, of the matrix-product rate measured in this run"
    ) + "".join(
        f"; {metric_header(name)} {format_value(name, a)} and {format_value(name, d)}"
        for name, (a, d) in known.items()
        if name != "mfu"
    )
    within = {name: _inside(a, *_AR_BAND) and _inside(d, *_DIFFUSION_BAND) for name, (a, d) in known.items()}
    compute = [name for name in ("mfu", "tensor_active") if name in known]
    if all(within[name] for name in compute):
        by = " and by ".join(map(metric_header, compute))
        return Tradeoff(aspect, claim, measured, "holds", f"AR within 10 to 20 %, diffusion within 60 to 90 %, by {by}")
    roofline = [p.number("roofline_fraction") for p in (seen.ar, seen.middle)]
    bound = [name for name, r in zip(("AR", "diffusion"), roofline, strict=True) if r < 0.5]
    why = f"{' and '.join(bound)} overhead-bound: the framework is measured" if bound else "on this device and size"
    some = [metric_header(name) for name, fits in within.items() if fits]
    if some:
        others = ", ".join(metric_header(name) for name in compute if not within[name])
        return Tradeoff(aspect, claim, measured, "in part", f"so by {' and by '.join(some)}, not by {others}; {why}")
    if all(_point_inside(*known[name]) for name in compute):
        order = "the numbers lie where claimed, but their intervals reach beyond"
        return Tradeoff(aspect, claim, measured, "in part", f"{order}; {why}")
    if _below(ar, diffusion):
        order = "diffusion uses more of the device, not as much as claimed"
        if not _inside(ar, *_AR_BAND) and (diffusion.value or 0.0) >= _DIFFUSION_BAND[0]:
            order = "diffusion uses more of the device, but the shares are not those claimed"
        return Tradeoff(aspect, claim, measured, "in part", f"{order}; {why}")
    order = "AR uses as much of the device"
    return Tradeoff(aspect, claim, measured, "does not hold", f"{order}; {why}")


def _inside(value: Value, low: float, high: float) -> bool:
    """Whether the value, and its whole interval where it has one, lies between `low` and `high`."""
    numbers = [x for x in (value.value, value.low, value.high) if x is not None]
    return bool(numbers) and all(low <= x <= high for x in numbers)


def _point_inside(ar: Value, diffusion: Value) -> bool:
    return _inside(Value(value=ar.value), *_AR_BAND) and _inside(Value(value=diffusion.value), *_DIFFUSION_BAND)


def _quality(seen: _Seen) -> Tradeoff:
    """Holds where the fewest steps are worse than AR and than the most steps, which are shown to be as good as AR's.

    Settings whose words have collapsed are left out: their validity is bought, unless AR's is bought as well.
    """
    aspect, claim = "output quality", "AR sets the standard; diffusion comes near it with many steps and falls with few"
    flattered = seen.study.flattered
    judged = [
        p
        for p in seen.diffusion
        if p.value(QUALITY) and (p.measurement.key not in flattered or seen.ar.measurement.key in flattered)
    ]
    ar = seen.ar.value(QUALITY)
    if ar is None or len(judged) < 2:
        return _unmeasured(aspect, claim, "honest texts were judged at fewer than two T")
    most, few = judged[0], judged[-1]
    told = ", ".join(f"{format_value(QUALITY, _of(p, QUALITY))} at T = {p.steps}" for p in (most, few))
    measured = f"valid texts: AR {format_value(QUALITY, ar)}, diffusion {told}"
    best, worst = _of(most, QUALITY), _of(few, QUALITY)
    enough = seen.ar.measurement.metrics.get("steps_at_equal_quality")
    equal = enough is not None and enough.value is not None and enough.value <= (most.steps or 0)
    if not _below(worst, best):
        if _below(worst, ar):
            why = "its texts are worse than AR's, and more steps are not shown to help"
        else:
            why = "no loss at the fewest steps that the intervals could show"
        return Tradeoff(aspect, claim, measured, "does not hold", why)
    if equal:
        return Tradeoff(aspect, claim, measured, "holds", "few steps cost texts, and more reach AR")
    near = "even the most steps stay below AR" if _below(best, ar) else "the most steps are not shown to reach AR"
    return Tradeoff(aspect, claim, measured, "in part", f"few steps cost texts, and {near}")


def _streaming(seen: _Seen) -> Tradeoff:
    """Holds where AR's first token comes within a quarter of its latency and diffusion's after half of its."""
    aspect, claim = "streaming", "AR streams from the first token on; diffusion shows nothing until late"
    shares = []
    for point in (seen.ar, seen.middle):
        first, whole = point.value("ttft_s"), point.value("latency_s")
        if first is None or whole is None:
            return _unmeasured(aspect, claim, "position 0 was not committed in time")
        shares.append(point.number("ttft_s") / point.number("latency_s"))
    ar, diffusion = shares
    half = max(1, seen.shape[2] // 2)
    curve = [p.value(f"time_to_k_s[{half}]") for p in (seen.ar, seen.middle)]
    measured = (
        f"position 0 stands after {format_number(ar, '%')} of AR's latency, after {format_number(diffusion, '%')} of "
        f"diffusion's at T = {seen.middle.steps}"
    )
    if all(curve):
        told = " and ".join(format_number(v.value or 0.0, "s") for v in curve if v is not None)
        measured += f"; the first {half} tokens after {told}"
    if ar <= 0.25 and diffusion >= 0.5:
        return Tradeoff(aspect, claim, measured, "holds", "what diffusion shows early has gaps, and a prefix is late")
    if diffusion > ar:
        return Tradeoff(
            aspect, claim, measured, "in part", "AR's prefix grows sooner, but diffusion's is not last either"
        )
    return Tradeoff(aspect, claim, measured, "does not hold", "diffusion committed its first position as early as AR")


def _controllability(seen: _Seen) -> Tradeoff:
    """Holds where AR's likelihood is exact and diffusion's a bound, and diffusion fills gaps more validly than AR."""
    aspect = "controllability"
    claim = "AR gives exact log-probabilities, diffusion a bound; diffusion fills a gap, which AR cannot"
    studies = seen.studies
    if studies is None or studies.likelihood is None or studies.infill is None:
        return _unmeasured(aspect, claim, "; ".join((studies.why if studies else {}).values()) or f"see {_LESSON}")
    likelihood, infill = studies.likelihood, studies.infill
    nats = {side: _nats(value) for side, value in likelihood.nats.items()}
    rest = [(name, v) for name, v in infill.validity.items() if name != "diffusion"]
    error = likelihood.monte_carlo_error.get("diffusion", 0.0)
    measured = (
        f"on the same {likelihood.texts} texts AR {nats.get('ar', 'none')} nats a token, exact; diffusion at most "
        f"{nats.get('diffusion', 'none')} (± {error:.2g} from its draws); the source itself {likelihood.source:.3f}. "
        f"A gap of {infill.gap} filled validly by diffusion in "
        f"{format_value(QUALITY, infill.validity['diffusion'])}, by "
        + ", by ".join(f"{name.replace('ar', 'AR', 1)} in {format_value(QUALITY, v)}" for name, v in rest)
    )
    exact = likelihood.exact.get("ar", False) and not likelihood.exact.get("diffusion", True)
    fills = all(_below(v, infill.validity["diffusion"]) for _, v in rest)
    if exact and fills:
        return Tradeoff(aspect, claim, measured, "holds", "each side has what the other lacks")
    if not exact:
        return Tradeoff(aspect, claim, measured, "does not hold", "AR's likelihood is no exact value here")
    better = [name for name, v in rest if _below(infill.validity["diffusion"], v)]
    if better:
        who = better[0].replace("ar", "AR", 1)
        why = f"AR's likelihood is exact, but {who} fills a gap more often than diffusion"
        return Tradeoff(aspect, claim, measured, "does not hold" if len(better) == len(rest) else "in part", why)
    why = "each side has what the other lacks, but AR's best of several tries fills a gap about as often, at their cost"
    return Tradeoff(aspect, claim, measured, "in part", why)


def _long(seen: _Seen) -> Tradeoff:
    """Holds where diffusion is faster at the longest L at equal quality; in part where only at a lower quality."""
    aspect, claim = (
        "long-sequence throughput",
        "diffusion's throughput stays high on long outputs, where AR's decoding is serial",
    )
    shapes = [s for s in seen.study.shapes if s[0] == seen.pair and s[3] == seen.shape[3]]
    shape = max(shapes, key=lambda s: s[2])
    ar, diffusion = seen.study.ar(shape), [p for p in seen.study.diffusion(shape) if p.value("speedup")]
    if ar is None or not diffusion:
        return _unmeasured(aspect, claim, "one side is missing at the longest L")
    fastest = max(diffusion, key=lambda p: p.number("speedup"))
    measured = (
        f"at L = {shape[2]}, batch {shape[3]}: {format_value('speedup', _of(fastest, 'speedup'))} of AR's throughput "
        f"at T = {fastest.steps}"
    )
    equal = ar.measurement.metrics.get("speedup_at_equal_quality")
    if equal is not None and equal.value is not None:
        measured += f"; {format_value('speedup_at_equal_quality', equal)} at equal quality"
        if (equal.low or equal.value) > 1:
            return Tradeoff(aspect, claim, measured, "holds", "faster, and its texts are as good")
    low = _of(fastest, "speedup").low
    if (low if low is not None else fastest.number("speedup")) > 1:
        own, others = ar.value(QUALITY), fastest.value(QUALITY)
        if own is None or others is None:
            why = "faster; quality was not judged"
        elif _below(others, own):
            why = "faster where its texts are worse; at equal quality no gain is shown"
        else:
            why = "faster, but no setting is shown to be both faster and as good"
        return Tradeoff(aspect, claim, measured, "in part", why)
    return Tradeoff(
        aspect, claim, measured, "does not hold", "AR with its cache was as fast or faster at every measured T"
    )


_ROWS: tuple[Callable[[_Seen], Tradeoff], ...] = (
    _direction, _steps, _step, _utilisation, _quality, _streaming, _controllability, _long,
)  # fmt: skip


def _unmeasured(aspect: str, claim: str, why: str) -> Tradeoff:
    return Tradeoff(aspect, claim, "—", "not measured", why)


def _of(point: Point, metric: str) -> Value:
    return point.measurement.metrics[metric]


def _below(one: Value, other: Value) -> bool:
    """Whether the whole interval of `one` lies below that of `other`."""
    high, low = one.high if one.high is not None else one.value, other.low if other.low is not None else other.value
    return high is not None and low is not None and high < low


def _nats(value: Value) -> str:
    if value.value is None:
        return "—"
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{interval}"
