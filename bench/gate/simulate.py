"""The gate's error rates and power under known noise: `python -m dlmbench.bench.gate.simulate --out DIR`.

Every line of the result is a share of many whole gates, looks and all, with its Wilson interval. The slowdown is
planted in every cell (`all`) or in one of them (`one`, the harder case). One set of gates serves all slowdowns of a
curve, so that a curve is smooth and its points are not independent of each other.

What to look for: FAIL at most alpha at 0 and at the margin itself, in whatever noise; INCONCLUSIVE at 0; FAIL at 5 and
10 %; PASS at twice the margin, a real slowdown that slipped through.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...profiles.gate import Policy
from ...profiles.quality.intervals import wilson
from ...reports.fig_gate import PowerCurve, gate_figure
from ...reports.plotting import style
from .arrays import FAIL, INCONCLUSIVE, PASS, statistics, verdicts
from .noise import Noise, drawn_again
from .trimmed import TRIM, Floats, Trimmed, trimmed

GATES = 10_000
BATCH = 1000
BASE_S = 0.01  # a latency whose margin lies far above the default floor
SPREADS = (0.01, 0.02, 0.03)
CELLS = 5
Where = Literal["all", "one"]
Point = tuple[Where, float]


@dataclass(frozen=True, slots=True)
class Row:
    """The verdicts of `gates` gates in one noise at one slowdown; each share is (value, low, high), 95 % Wilson."""

    noise: str
    pair_sd: float
    cells: int
    test: str
    where: Where
    slowdown: float
    gates: int
    fail: tuple[float, float, float]
    passed: tuple[float, float, float]
    inconclusive: tuple[float, float, float]
    mean_pairs: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Where gates come from: `draw(gates, pairs, random)` gives log-ratios [G, P, cells] of two equal programs.

    `pair_sd` describes them; `trim` is the share that the test drops at each end.
    """

    name: str
    cells: int
    pair_sd: float
    draw: Callable[[int, int, np.random.Generator], Floats]
    trim: float = TRIM

    @classmethod
    def of_noise(cls, name: str, noise: Noise, cells: int = CELLS, trim: float = TRIM) -> Scene:
        """Gates made of known noise."""

        def draw(gates: int, pairs: int, random: np.random.Generator) -> Floats:
            return noise.log_ratios(gates, pairs, cells, random)

        return cls(name, cells, noise.pair_sd, draw, trim)

    @classmethod
    def of_record(cls, name: str, log_ratios: Floats, trim: float = TRIM) -> Scene:
        """Gates drawn again from recorded A/A pairs [pairs, cells]; their sd is the median over cells, robust."""

        def draw(gates: int, pairs: int, random: np.random.Generator) -> Floats:
            return drawn_again(log_ratios, gates, pairs, random)

        spread = float(np.median(trimmed(log_ratios.T).error)) * math.sqrt(len(log_ratios))
        return cls(name, log_ratios.shape[1], spread, draw, trim)

    def rows(self, points: Sequence[Point], policy: Policy, gates: int, random: np.random.Generator) -> list[Row]:
        """A row for every (where, slowdown), of the same gates."""
        sizes = [min(BATCH, gates - done) for done in range(0, gates, BATCH)]
        ratios = np.concatenate([self.draw(size, policy.looks[-1], random) for size in sizes])
        looked = statistics(ratios, policy.looks, self.trim)
        return [self._row(looked, policy, where, slowdown) for where, slowdown in dict.fromkeys(points)]

    def _row(self, looked: Sequence[Trimmed], policy: Policy, where: Where, slowdown: float) -> Row:
        outcomes = verdicts(looked, policy, BASE_S, planted(where, slowdown, self.cells))
        gates = len(outcomes.verdicts)

        def share(verdict: int) -> tuple[float, float, float]:
            count = outcomes.count(verdict)
            return (count / gates, *wilson(count, gates))

        return Row(
            noise=self.name,
            pair_sd=self.pair_sd,
            cells=self.cells,
            test=f"trimmed {self.trim:g}" if self.trim else "mean",
            where=where,
            slowdown=slowdown,
            gates=gates,
            fail=share(FAIL),
            passed=share(PASS),
            inconclusive=share(INCONCLUSIVE),
            mean_pairs=float(outcomes.pairs.mean()),
        )


def planted(where: Where, slowdown: float, cells: int) -> Floats:
    """The slowdown as log-ratios [C]."""
    shift = np.zeros(cells)
    shift[: 1 if where == "one" else cells] = math.log1p(slowdown)
    return shift


def curves(scenes: Sequence[Scene], policy: Policy, gates: int, seed: int) -> list[Row]:
    """The power curve over 0 to +20 %, planted in all cells and in one, of each scene."""
    margin = policy.margins["latency_s"].relative
    slowdowns = {*(step / 200 for step in range(17)), *(step / 100 for step in range(8, 21))}
    slowdowns |= {margin, 1.5 * margin, 2 * margin}
    points: list[Point] = [(where, x) for where in ("all", "one") for x in sorted(slowdowns)]
    return [
        row
        for number, scene in enumerate(scenes)
        for row in scene.rows(points, policy, gates, np.random.default_rng((seed, number)))
    ]


def checks(scenes: Sequence[Scene], policy: Policy, gates: int, seed: int) -> list[Row]:
    """The promises alone: no change, exactly the margin, twice the margin, 5 and 10 %."""
    margin = policy.margins["latency_s"].relative
    points: list[Point] = [("all", 0.0), ("all", margin), ("one", margin), ("one", 2 * margin)]
    points += [("all", 0.05), ("one", 0.05), ("one", 0.10)]
    return [
        row
        for number, scene in enumerate(scenes)
        for row in scene.rows(points, policy, gates, np.random.default_rng((seed, 100 + number)))
    ]


def spreads() -> list[Scene]:
    """The usual noise at three standard deviations of a pair."""
    return [Scene.of_noise(f"sd {100 * spread:g} %", Noise().at_pair_sd(spread)) for spread in SPREADS]


def variants() -> list[Scene]:
    """Other noise: few and many cells, no outliers, more, at head only (which is a slowdown of a kind), cells that move
    together; and the usual noise judged by a plain mean, for comparison."""
    found = []
    for spread in SPREADS[:2]:
        noise = Noise().at_pair_sd(spread)
        name = f"sd {100 * spread:g} %"
        found += [
            Scene.of_noise(f"{name}, 3 cells", noise, cells=3),
            Scene.of_noise(f"{name}, 8 cells", noise, cells=8),
            Scene.of_noise(f"{name}, no outliers", replace(noise, outlier_rate=0.0)),
            Scene.of_noise(f"{name}, 5 % outliers", replace(noise, outlier_rate=0.05)),
            Scene.of_noise(f"{name}, outliers at head only", replace(noise, outlier_sides="head")),
            Scene.of_noise(f"{name}, cells alike", replace(noise, process_common=1.0)),
            Scene.of_noise(f"{name}, plain mean", noise, trim=0.0),
        ]
    return found


def power_curves(rows: Sequence[Row]) -> list[PowerCurve]:
    """The rows of `curves` as the figure draws them."""
    names = list(dict.fromkeys((row.noise, row.where) for row in rows))
    found = []
    for noise, where in names:
        points = [row for row in rows if (row.noise, row.where) == (noise, where)]
        found.append(
            PowerCurve(
                title=f"{noise} a pair, {'all cells' if where == 'all' else 'one cell'} slower",
                slowdown=tuple(row.slowdown for row in points),
                fail=tuple(row.fail[0] for row in points),
                passed=tuple(row.passed[0] for row in points),
                pairs=tuple(row.mean_pairs for row in points),
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and write `gate-simulation.json` and `gate-power.png`."""
    parser = argparse.ArgumentParser(prog="python -m dlmbench.bench.gate.simulate", description=__doc__)
    parser.add_argument("--gates", type=int, default=GATES, help="gates a line (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON and the figure")
    flags = parser.parse_args(arguments)
    policy, started = Policy(), time.monotonic()
    curve_rows = curves(spreads(), policy, flags.gates, flags.seed)
    check_rows = checks(variants(), policy, flags.gates, flags.seed)
    flags.out.mkdir(parents=True, exist_ok=True)
    document = {
        "policy": policy.model_dump(mode="json"),
        "noise": asdict(Noise()),
        "gates": flags.gates,
        "seed": flags.seed,
        "seconds": round(time.monotonic() - started, 1),
        "curves": [asdict(row) for row in curve_rows],
        "checks": [asdict(row) for row in check_rows],
    }
    path = flags.out / "gate-simulation.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with style():
        gate_figure(power_curves(curve_rows), policy.margins["latency_s"].relative, flags.out / "gate-power.png")
    for line in table([*curve_rows, *check_rows]):
        print(line)
    print(f"{path} and gate-power.png, {document['seconds']} s", file=sys.stderr)


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of Markdown."""
    lines = [
        "| noise | cells | slower | by | FAIL % | PASS % | INCONCLUSIVE % | pairs |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        shares = " | ".join(f"{100 * share[0]:.2f}" for share in (row.fail, row.passed, row.inconclusive))
        by = f"{100 * row.slowdown:g} %"
        lines.append(f"| {row.noise} | {row.cells} | {row.where} | {by} | {shares} | {row.mean_pairs:.1f} |")
    return lines


if __name__ == "__main__":
    main()
