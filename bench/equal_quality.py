"""Speed joined with quality: speed-up and fewest steps at equal quality, AUP, and what an approximate cache costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..models.names import AR, BUILT_IN
from ..profiles.quality import (
    Allowance,
    Contender,
    aup,
    difference,
    smallest_steps_within,
    speedup_at_equal_quality,
)
from ..profiles.quality.intervals import LEVEL
from ..profiles.record import Cell, Measurement, Value

QUALITY = "quality.validity"
# Texts may be valid five in a hundred less often than AR's: less than that, a few hundred texts cannot tell.
ALLOWANCE = Allowance(higher_is_better=True, absolute=0.05, estimate="share")
_DRAWS = 400
_APPROXIMATE = ("prefix", "dual")


def add_equal_quality(
    measured: dict[str, Measurement],
    rivals: Mapping[str, Sequence[Measurement]],
    flattered: Collection[str] = (),
) -> None:
    """Add these to each AR cell of `rivals` (its key -> diffusion cells) whose own texts were judged.

    A setting whose validity is bought with collapsed words (its key is among `flattered`) is no equal of an AR that
    keeps to the source's; where AR's own texts are flattered, it may be.
    """
    for key, others in rivals.items():
        m = measured[key]
        own = m.metrics.get(QUALITY)
        judged = [other for other in others if QUALITY in other.metrics]
        if own is None or not judged:
            continue
        honest = [o for o in judged if o.key not in flattered or key in flattered]
        contenders = [
            Contender(o.key, o.cell.steps, o.metrics["speedup"], o.metrics[QUALITY], _texts_of(o.cell)) for o in honest
        ]
        none = Value(value=None, why="the words of every diffusion setting's texts have collapsed (flattered)")
        found: dict[str, Value] = {
            "speedup_at_equal_quality": (
                speedup_at_equal_quality(contenders, own, ALLOWANCE).value if contenders else none
            ),
            "steps_at_equal_quality": smallest_steps_within(contenders, own, ALLOWANCE).value if contenders else none,
            # The published AUP knows no such exclusion: it takes validity as it stands.
            **_aups(m, judged),
        }
        measured[key] = m.model_copy(update={"metrics": {**m.metrics, **found}})


def add_cache_prices(measured: dict[str, Measurement], ratio: Callable[[str, str], Value]) -> None:
    """Add what an approximate cache gains and costs to each cell with one, where its twin without was judged as well.

    `ratio(key, twin)` is the throughput of one cell over that of another.
    """
    exact = {_without_cache(m.cell): m for m in measured.values() if _judged(m) and _keeps_nothing(m.cell)}
    for key, m in measured.items():
        if m.cell.side != "diffusion" or m.cell.cache not in _APPROXIMATE or not _judged(m):
            continue
        twin = exact.get(_without_cache(m.cell))
        if twin is None:
            continue
        found = {
            "cache_speedup": ratio(key, twin.key),
            "quality.cache_validity_change": difference(m.metrics[QUALITY], twin.metrics[QUALITY]),
        }
        measured[key] = m.model_copy(update={"metrics": {**m.metrics, **found}})


def _texts_of(cell: Cell) -> str:
    """Cells of one such key were judged by the same texts: engine, kernel and batch change no text's law."""
    return cell.model_copy(update={"engine": "eager", "attention": "auto", "batch": 1}).key


def _judged(m: Measurement) -> bool:
    return m.status == "ok" and QUALITY in m.metrics


def _without_cache(cell: Cell) -> str:
    return cell.model_copy(update={"cache": None}).key


def _keeps_nothing(cell: Cell) -> bool:
    """Whether the cell computes everything anew; what a plug-in does by default is not known."""
    entry = BUILT_IN.get(cell.generator)
    return cell.cache == "none" or (cell.cache is None and entry is not None and entry.caches[0] == "none")


def _aups(ar: Measurement, judged: Sequence[Measurement]) -> dict[str, Value]:
    """`aup[...]` of the AR cell's single point and of every curve of diffusion cells."""
    best = 100 * max(m.metrics[QUALITY].value or 0.0 for m in (ar, *judged))
    curves = {AR: [ar], **_curves(judged)}
    return {f"aup[{label}]": _aup(cells, best) for label, cells in curves.items()}


def _curves(cells: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Cells that differ in T alone, under their generator's name and the axes in which its curves differ.

    Engine and attention kernel change no text's law: at equal T the fastest of them counts.
    """
    curves: dict[tuple[str, tuple[str, ...]], dict[int | None, Measurement]] = defaultdict(dict)
    for m in cells:
        cell = m.cell.model_copy(update={"steps": None, "engine": "eager", "attention": "auto"})
        axes = tuple(cell.key.removeprefix(f"{cell.pair}/{cell.generator}/").split(","))
        points = curves[cell.generator, axes]
        other = points.get(m.cell.steps)
        if other is None or _speed(m) > _speed(other):
            points[m.cell.steps] = m
    shared: dict[str, set[str]] = {}
    for generator, axes in curves:
        shared[generator] = shared.get(generator, set(axes)) & set(axes)
    return {
        ",".join((generator, *(axis for axis in axes if axis not in shared[generator]))): list(points.values())
        for (generator, axes), points in curves.items()
    }


def _speed(m: Measurement) -> float:
    return m.metrics["speedup"].value or 0.0


def _aup(cells: Sequence[Measurement], y_max: float) -> Value:
    """AUP of one curve; its interval is that of the shares of valid texts, y_max held as measured.

    A point near the limit of 5 below the first falls out in some draws, which the interval shows.
    Each share is drawn from Jeffreys' posterior, Beta(k + 1/2, n - k + 1/2) for k valid texts of n (Brown, Cai and
    DasGupta 2001, section 3.1.2).
    """
    absent = Value(value=None)
    pairs = [(m.metrics.get("tokens_per_forward", absent), m.metrics[QUALITY]) for m in cells]
    points = [(rho.value, y) for rho, y in pairs if rho.value and y.value is not None]
    if not points:
        return Value(value=None, why="no setting has both tokens per forward and a share of valid texts")
    if not y_max:
        return Value(value=None, n=len(points), why="no text of any generator is valid")
    rhos = [rho for rho, _ in points]
    found = aup([(rho, 100 * (y.value or 0.0)) for rho, y in points], y_max)
    if any(y.level != LEVEL or not y.n for _, y in points):
        return Value(value=found.value, n=len(found.kept), why="a share of valid texts has no interval")
    random = np.random.default_rng(0)
    valid = [(y.n * (y.value or 0.0), y.n) for _, y in points]
    shares = 100 * np.stack([random.beta(k + 0.5, n - k + 0.5, _DRAWS) for k, n in valid], axis=1)
    drawn = [aup(zip(rhos, row, strict=True), y_max).value for row in shares.tolist()]
    low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    # At 0 and n valid texts the posterior leaves the estimate outside.
    low, high = min(float(low), found.value), max(float(high), found.value)
    return Value(value=found.value, low=low, high=high, n=len(found.kept), level=LEVEL)
