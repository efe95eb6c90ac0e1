"""AUP of curves, and what an approximate cache gains and costs: numbers worked out by hand beside them."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dlmbench.bench.equal_quality import ALLOWANCE, add_equal_quality
from dlmbench.bench.summary import measurements
from dlmbench.profiles.metrics import METRICS, declared
from dlmbench.profiles.quality import aup
from dlmbench.profiles.quality.intervals import share
from dlmbench.profiles.record import Cell, Measurement, Reason, TextQuality, Trial, Value

TEXTS = 20_000


def measured(validity: float, steps: int | None = None, speedup: float = 1.0, **fields: Any) -> Measurement:
    """L = 16: T steps are T forwards, so 16 / T tokens a forward; AR takes one a forward."""
    generator = "ar" if steps is None else "masked-diffusion"
    given = {"pair": "small", "side": "ar" if steps is None else "diffusion", "generator": generator, "length": 16}
    cell = Cell.model_validate(given | {"steps": steps, **fields})
    metrics = {"speedup": Value(value=speedup), "tokens_per_forward": Value(value=16 / (steps or 16))}
    metrics["quality.validity"] = share(round(validity * TEXTS), TEXTS)
    return Measurement(cell=cell, key=cell.key, status="ok", metrics=metrics)


def joined(ar: Measurement, *rivals: Measurement) -> dict[str, Value]:
    found = {m.key: m for m in (ar, *rivals)}
    add_equal_quality(found, {ar.key: rivals})
    return {name: value for name, value in found[ar.key].metrics.items() if name.startswith("aup")}


def test_aup_by_hand() -> None:
    """Points (1, 80), (2, 78) under AR's 90 %: 1 x 80 + 1 x (78 exp(-3 (1 - 78/90)) + 80 exp(-3 (1 - 80/90))) / 2."""
    found = joined(measured(0.9), measured(0.8, 16), measured(0.78, 8))
    expected = 80 + (78 * math.exp(-3 * (1 - 78 / 90)) + 80 * math.exp(-3 * (1 - 80 / 90))) / 2
    value = found["aup[masked-diffusion]"]
    assert value.value == pytest.approx(expected)
    assert (value.n, value.level) == (2, 0.95)
    # y W rises by W (1 + 3 y / y_max): 2.63 at 80 and 2.41 at 78. So AUP rises by 1 + 1.31 a point of the first and by
    # 1.21 a point of the second; each is known to 0.55 points from 20 000 texts: 0.55 x hypot(2.31, 1.21) = 1.4.
    assert value.low is not None
    assert value.high is not None
    assert expected - 2 < value.low < expected - 1
    assert expected + 1 < value.high < expected + 2
    assert (found["aup[ar]"].value, found["aup[ar]"].n) == (pytest.approx(90.0), 1)
    assert sorted(found) == ["aup[ar]", "aup[masked-diffusion]"]


def test_the_best_quality_is_anyones() -> None:
    alone = joined(measured(0.5), measured(0.5, 16), measured(0.5, 8))["aup[masked-diffusion]"]
    beside = joined(measured(0.5), measured(0.5, 16), measured(0.5, 8), measured(0.9, 8, generator="sedd"))
    assert alone.value == pytest.approx(50 + 50)
    assert beside["aup[masked-diffusion]"].value == pytest.approx(50 + 50 * math.exp(-3 * (1 - 50 / 90)))
    assert beside["aup[sedd]"].value == pytest.approx(2 * 90)


def test_points_far_below_the_first_are_left_out() -> None:
    value = joined(measured(0.9), measured(0.9, 16), measured(0.3, 2))["aup[masked-diffusion]"]
    assert (value.value, value.n) == (pytest.approx(90), 1)
    # 4.8 below the first, with a standard error of 0.3: the point might as well have fallen out.
    value = joined(measured(0.9), measured(0.9, 16), measured(0.852, 8))["aup[masked-diffusion]"]
    assert (value.value, value.n) == (pytest.approx(90 + (90 + 85.2 * math.exp(-3 * (1 - 85.2 / 90))) / 2), 2)
    assert value.low == pytest.approx(90, abs=1)


def test_curves_that_differ_in_more_than_steps_are_named_by_what_differs() -> None:
    blocks = [measured(0.8, steps, block_length=block) for steps in (16, 8) for block in (4, 8)]
    found = joined(measured(0.9), *blocks, measured(0.7, 8, generator="fast-dllm", cache="dual"))
    assert sorted(found) == [
        "aup[ar]", "aup[fast-dllm]", "aup[masked-diffusion,block=4]", "aup[masked-diffusion,block=8]",
    ]  # fmt: skip
    assert found["aup[masked-diffusion,block=4]"].n == 2
    plain = joined(measured(0.9), measured(0.8, 16), measured(0.8, 16, block_length=4))
    assert sorted(plain) == ["aup[ar]", "aup[masked-diffusion,block=4]", "aup[masked-diffusion]"]


def test_engines_share_a_curve_and_the_fastest_counts() -> None:
    slow, fast = measured(0.7, 16, 1.5), measured(0.8, 16, 3.0, engine="compile", attention="flash")
    for order in ((slow, fast), (fast, slow)):
        found = joined(measured(0.9), *order)
        assert found["aup[masked-diffusion]"].value == pytest.approx(80)
        assert sorted(found) == ["aup[ar]", "aup[masked-diffusion]"]


def test_no_valid_text_and_no_forward_are_reasons() -> None:
    found = joined(measured(0.0), measured(0.0, 16))
    assert {value.why for value in found.values()} == {"no text of any generator is valid"}
    silent = measured(0.5, 16)
    silent.metrics["tokens_per_forward"] = Value(value=None, why="no forward was announced")
    found = joined(measured(0.9), silent)
    assert found["aup[masked-diffusion]"].value is None
    assert "tokens per forward" in (found["aup[masked-diffusion]"].why or "")


def test_the_interval_of_aup_covers_the_truth() -> None:
    """True shares 0.8, 0.79, 0.78 of 5000 texts, y_max an AR at 0.9: of 60 intervals at 95 %, 54 or more cover."""
    random, truth = np.random.default_rng(1), {16: 0.8, 8: 0.79, 4: 0.78}
    target = aup([(16 / steps, 100 * p) for steps, p in truth.items()], 90.0).value
    covered = 0
    for _ in range(60):
        cells = [measured(p, steps) for steps, p in truth.items()]
        for m, p in zip(cells, truth.values(), strict=True):
            m.metrics["quality.validity"] = share(int(random.binomial(5000, p)), 5000)
        value = joined(measured(0.9), *cells)["aup[masked-diffusion]"]
        assert value.low is not None
        assert value.high is not None
        covered += value.low <= target <= value.high
    assert covered >= 54


def test_the_declarations_name_the_allowance_and_the_bracket() -> None:
    for name in ("speedup_at_equal_quality", "steps_at_equal_quality"):
        assert f"at most {ALLOWANCE.absolute:g} (absolute) below" in METRICS[name].formula
    assert declared("aup[sedd]").kind == declared("cache_speedup").kind == "pair"
    assert declared("quality.cache_validity_change").kind == "quality"


# The price of an approximate cache


def texts(valid: int, of: int = 200) -> TextQuality:
    return TextQuality(texts=of, seconds=1.0, metrics={"quality.validity": share(valid, of)})


def trials(fakes: ModuleType, cache: str | None, seconds: list[list[float]], valid: int | None, **fields: Any) -> Any:
    """Trials of a cell at T = 4 of `fast-dllm`, a process a list of latencies; None: its texts were not judged."""
    cell = fakes.cell("fast-dllm", 4, cache=cache, **fields)
    quality = None if valid is None else texts(valid)
    return [fakes.trial(cell, taken, p, quality=quality) for p, taken in enumerate(seconds)]


def prices(made: list[Trial], key: str) -> dict[str, Value]:
    metrics = {m.key: m for m in measurements(made)}[key].metrics
    return {name: metrics[name] for name in ("cache_speedup", "quality.cache_validity_change") if name in metrics}


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("exact", [None, "none"])
def test_a_cache_is_held_against_the_same_cell_without_it(fakes: ModuleType, cache: str, exact: str | None) -> None:
    """Ratios 1, 2, 4, 8, 16 in five processes: geometric mean 4, t(0.975; 4) = 2.776445, s = ln 2 x sqrt(2.5)."""
    slow, fast = [[1.0]] * 5, [[2.0**-p] for p in range(5)]
    found = prices(
        [*trials(fakes, exact, slow, 180), *trials(fakes, cache, fast, 150)],
        fakes.cell("fast-dllm", 4, cache=cache).key,
    )
    speedup, change = found["cache_speedup"], found["quality.cache_validity_change"]
    half = 2.776445 * math.log(2) * math.sqrt(2.5) / math.sqrt(5)
    assert speedup.value == pytest.approx(4.0)
    assert (speedup.low, speedup.high) == (
        pytest.approx(4 * math.exp(-half), rel=1e-5), pytest.approx(4 * math.exp(half), rel=1e-5),
    )  # fmt: skip
    assert (speedup.n, speedup.level) == (5, 0.95)
    # 150 and 180 of 200: -0.15. Newcombe's method 10 from Wilson's [0.68577, 0.80484] and [0.85057, 0.93427]:
    # low = -0.15 - hypot(0.75 - 0.68577, 0.93427 - 0.9), high = -0.15 + hypot(0.80484 - 0.75, 0.9 - 0.85057).
    assert change.value == pytest.approx(-0.15)
    assert change.low == pytest.approx(-0.15 - math.hypot(0.06423, 0.03427), abs=2e-4)
    assert change.high == pytest.approx(-0.15 + math.hypot(0.05484, 0.04943), abs=2e-4)
    assert change.level == 0.95


def test_a_drift_of_the_machine_cancels_round_by_round(fakes: ModuleType) -> None:
    slowing = [1.0, 2.0, 4.0, 16.0, 100.0]
    made = [*trials(fakes, None, [slowing], 180), *trials(fakes, "dual", [[t / 3 for t in slowing[:3]]], 180)]
    found = prices(made, fakes.cell("fast-dllm", 4, cache="dual").key)
    assert found["cache_speedup"].value == pytest.approx(3.0)
    assert found["quality.cache_validity_change"].value == 0.0


def test_only_a_judged_twin_in_every_other_axis_sets_a_price(fakes: ModuleType) -> None:
    cached = trials(fakes, "dual", [[0.5]], 150)
    key = cached[0].key
    why = Reason(code="crash", message="boom")
    broken = [t.model_copy(update={"status": "failed", "reason": why}) for t in trials(fakes, None, [[1.0]], 180)]
    assert prices([*cached, *broken], key) == {}
    assert prices([*cached, *trials(fakes, None, [[1.0]], None)], key) == {}
    assert prices([*trials(fakes, "dual", [[0.5]], None), *trials(fakes, None, [[1.0]], 180)], key) == {}
    for other in ({"batch": 2}, {"engine": "compile"}, {"block_length": 4}, {"dtype": "bfloat16"}):
        assert prices([*cached, *trials(fakes, None, [[1.0]], 180, **other)], key) == {}
    assert prices([*cached, *trials(fakes, "prefix", [[1.0]], 180)], key) == {}
    exact = trials(fakes, None, [[1.0]], 180)
    assert prices([*cached, *exact], exact[0].key) == {}


def test_a_default_that_is_a_cache_is_no_twin(fakes: ModuleType) -> None:
    """Speculative decoding keeps a prefix by default, and what a plug-in does by default is not known."""
    for generator in ("speculative", "plugin.py:make"):
        cell = fakes.cell(generator, 4, cache="prefix")
        default = fakes.cell(generator, 4)
        made = [fakes.trial(c, [1.0], quality=texts(150)) for c in (cell, default)]
        assert prices(made, cell.key) == {}
        without = fakes.cell(generator, 4, cache="none")
        assert len(prices([*made, fakes.trial(without, [2.0], quality=texts(150))], cell.key)) == 2
