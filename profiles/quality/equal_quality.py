"""Speed at equal quality: what diffusion gains over AR where its texts are not worse by more than an allowance.

The best of several settings is looked for, and looking at many finds a lucky one. So the intervals are joint: with m of
them in play each is taken at level 1 - 0.05 / m (Bonferroni), and with 95 % confidence all hold at once, however the
best is picked and however the settings depend on each other (they share the AR side). The speed-up of the fastest
setting that is truly non-inferior then lies between the best lower bound among the proven ones and the best upper bound
among all that are not shown to be worse. An intersection-union test would need no such correction, but only for one
setting named in advance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..record import Value
from .intervals import LEVEL, share, shown
from .noninferior import Allowance, Standing, noninferior, widening


@dataclass(frozen=True, slots=True)
class Contender:
    """A diffusion setting: its speed-up over the pair's fastest AR cell and the quality of its own texts.

    Contenders of one `judgement` (engines, kernels) share their texts and so one interval of quality; by default each
    has its own.
    """

    name: str
    steps: int | None
    speedup: Value
    quality: Value
    judgement: str | None = None


@dataclass(frozen=True, slots=True)
class EqualQuality:
    """The value with its joint interval, the name of the setting it is of, and the verdict on every setting."""

    value: Value
    best: str | None
    verdicts: dict[str, Standing]


def speedup_at_equal_quality(contenders: Sequence[Contender], ar: Value, allowance: Allowance) -> EqualQuality:
    """The largest speed-up among the settings proven non-inferior to AR's quality `ar`; null with a reason if none is.

    m counts the intervals in play: one of quality a judgement and one of speed a setting. Where a speed-up carries no
    level (fewer than five processes), the result carries none either.
    """
    timed = [c for c in contenders if c.speedup.value is not None]
    among = _judgements(timed) + len(timed)
    verdicts = {c.name: noninferior(c.quality, ar, allowance, among=among) for c in timed}
    proven = [c for c in timed if verdicts[c.name] == "proven"]
    if not proven:
        return EqualQuality(_none_proven(timed, ar, allowance, verdicts), None, verdicts)
    best = max(proven, key=_speed)
    in_play = [c.speedup for c in timed if verdicts[c.name] != "worse"]
    if any(speedup.low is None or speedup.high is None for speedup in in_play):
        value = Value(value=best.speedup.value, n=best.speedup.n, why="a speed-up has no interval")
        return EqualQuality(value, best.name, verdicts)
    low = max(_at_level(c.speedup, among)[0] for c in proven)
    high = max(_at_level(speedup, among)[1] for speedup in in_play)
    level = LEVEL if all(speedup.level == LEVEL for speedup in in_play) else None
    value = Value(value=best.speedup.value, low=low, high=high, n=best.speedup.n, level=level)
    return EqualQuality(value, best.name, verdicts)


def smallest_steps_within(contenders: Sequence[Contender], ar: Value, allowance: Allowance) -> EqualQuality:
    """The fewest denoising steps T proven non-inferior to AR's quality `ar`; null with a reason if none is.

    m is the number of judgements of settings that have steps. The interval runs from the fewest steps not shown to be
    worse up to the value: the truly fewest lie there.
    """
    stepped = {c.name: c.steps for c in contenders if c.steps is not None}
    tried = [c for c in contenders if c.name in stepped]
    verdicts = {c.name: noninferior(c.quality, ar, allowance, among=_judgements(tried)) for c in tried}
    proven = [name for name, verdict in verdicts.items() if verdict == "proven"]
    if not proven:
        return EqualQuality(_none_proven(tried, ar, allowance, verdicts), None, verdicts)
    best = min(proven, key=lambda name: stepped[name])
    low = min(stepped[name] for name, verdict in verdicts.items() if verdict != "worse")
    value = Value(value=stepped[best], low=low, high=stepped[best], n=len(tried), level=LEVEL)
    return EqualQuality(value, best, verdicts)


def _judgements(contenders: Sequence[Contender]) -> int:
    return len({c.judgement or c.name for c in contenders})


def _speed(contender: Contender) -> float:
    return contender.speedup.value or 0.0


def _at_level(speedup: Value, among: int) -> tuple[float, float]:
    """A speed-up's interval at level 1 - 0.05 / among, widened on logarithms; as it is where it carries no level."""
    value, low, high = speedup.value or 0.0, speedup.low or 0.0, speedup.high or 0.0
    if speedup.level != LEVEL or low <= 0:
        return low, high
    factor = widening(speedup.n, among)
    return value * (low / value) ** factor, value * (high / value) ** factor


def _could_be_shown(quality: Value, ar: Value, allowance: Allowance, among: int) -> bool:
    """Whether as many texts as were judged would have shown it, had their share of valid ones been AR's own."""
    if allowance.estimate != "share" or ar.value is None or not quality.n:
        return True
    alike = share(math.ceil(ar.value * quality.n), quality.n)
    return noninferior(alike, ar, allowance, among=among) == "proven"


def _none_proven(
    contenders: Sequence[Contender], ar: Value, allowance: Allowance, verdicts: Mapping[str, Standing]
) -> Value:
    measured = [c for c in contenders if c.quality.value is not None]
    if ar.value is None:
        why = f"AR's quality is missing: {ar.why or 'not measured'}"
    elif not measured:
        why = "no diffusion setting has both a speed-up and a quality"
    else:
        nearest = (max if allowance.higher_is_better else min)(measured, key=lambda c: c.quality.value or 0.0)
        why = (
            f"no setting is shown to be within {allowance} of AR's {shown(ar)}; the nearest, {nearest.name}, "
            f"has {shown(nearest.quality)}"
        )
        if verdicts.get(nearest.name) != "worse" and not _could_be_shown(
            nearest.quality, ar, allowance, _judgements(measured)
        ):
            why += f", of {nearest.quality.n} texts: too few to show it even if every one were as good"
    return Value(value=None, n=len(contenders), why=why)
