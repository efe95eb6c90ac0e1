"""Simulated gates: the noise is what it says, arrays judge as `decide` does, and error rates keep their bounds.

Bounds on counts are quantiles of the binomial distribution at the promised rate, so that a gate which keeps its promise
breaks one in 10 000; seeds are fixed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from dlmbench.bench.gate import simulate
from dlmbench.bench.gate.arrays import FAIL, INCONCLUSIVE, PASS, statistics, verdicts
from dlmbench.bench.gate.decision import decide
from dlmbench.bench.gate.noise import Noise, drawn_again
from dlmbench.bench.gate.simulate import Scene, planted
from dlmbench.profiles.gate import CellEvidence, Margin, Policy, Timed

POLICY = Policy()
GATES = 600
CODES = {"INCONCLUSIVE": INCONCLUSIVE, "PASS": PASS, "FAIL": FAIL}


def most(rate: float, of: int = GATES) -> int:
    return int(binom.ppf(0.9999, of, rate))


def least(rate: float, of: int = GATES) -> int:
    return int(binom.ppf(0.0001, of, rate))


def test_the_parts_of_the_noise_add_up_to_the_spread_of_a_pair() -> None:
    noise = Noise(outlier_rate=0.0)
    ratios = noise.log_ratios(1500, 6, 2, np.random.default_rng(1))
    # 18 000 ratios, in twos alike: the standard error of their sd is about 0.7 %. Medians are asymptotic: 3 % more.
    assert float(ratios.std()) == pytest.approx(noise.pair_sd, rel=0.05)
    # By hand: what two processes differ by, and what a session leaves.
    alone = Noise(session_sd=0.01, session_unshared=0.2, process_sd=0.003, sample_sd=0.0, outlier_rate=0.0)
    assert alone.pair_sd == pytest.approx(math.sqrt(2 * 0.003**2 + 0.002**2))
    assert Noise().at_pair_sd(0.02).pair_sd == pytest.approx(0.02)
    with pytest.raises(ValueError, match="without any process effect"):
        Noise().at_pair_sd(0.001)


def test_independent_samples_have_the_textbook_error_of_the_median() -> None:
    assert Noise(autocorrelation=0.0).median_sd == pytest.approx(0.01 * math.sqrt(math.pi / 2 / 20))


def test_outliers_are_as_frequent_and_as_slow_as_asked_on_the_sides_asked() -> None:
    noise = Noise(0, 0, 0, 0, 2, 0.0, 0.0, outlier_rate=0.04, outlier_sides="head")
    ratios = noise.log_ratios(2000, 6, 3, np.random.default_rng(2))
    hit = ratios[..., 0] != 0
    # 12 000 processes at 4 %: standard error 0.18 %.
    assert float(hit.mean()) == pytest.approx(0.04, abs=0.006)
    assert 1.05 <= float(np.exp(ratios[hit]).min()) < float(np.exp(ratios[hit]).max()) <= 1.20
    assert (ratios == ratios[..., :1]).all()
    both = Noise(0, 0, 0, 0, 2, 0.0, 0.0, outlier_rate=0.04).log_ratios(2000, 6, 1, np.random.default_rng(3))
    assert float((both < 0).mean()) == pytest.approx(0.04, abs=0.006)


def test_pairs_drawn_again_keep_their_cells_together_and_are_as_often_turned_as_not() -> None:
    recorded = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    drawn = drawn_again(recorded, 500, 6, np.random.default_rng(4))
    assert (drawn[..., 1] == 10 * drawn[..., 0]).all()
    assert set(np.abs(drawn[..., 0]).ravel()) == {1.0, 2.0, 3.0}
    assert float((drawn < 0).mean()) == pytest.approx(0.5, abs=0.05)
    assert (drawn_again(recorded, 50, 6, np.random.default_rng(5), swap=False) > 0).all()


@pytest.mark.parametrize(("base", "floor"), [(0.01, 5e-5), (1e-3, 6e-5)])
def test_arrays_judge_as_decide_does(base: float, floor: float) -> None:
    policy = Policy(margins={"latency_s": Margin(relative=0.025, floor=floor)})
    random = np.random.default_rng(6)
    gates, cells = 150, 3
    centres = random.choice([-0.05, 0.0, 0.02, 0.04, 0.06, 0.1], (gates, 1, cells))
    ratios = centres + Noise().at_pair_sd(0.015).log_ratios(gates, policy.looks[-1], cells, random)
    outcomes = verdicts(statistics(ratios, policy.looks), policy, base)
    for gate, verdict, pairs in zip(ratios, outcomes.verdicts, outcomes.pairs, strict=True):
        look = 0
        while True:
            seen = gate[: policy.looks[look]]
            evidence = [
                CellEvidence(
                    key=str(number),
                    timed=(Timed(metric="latency_s", unit="s", base=base, log_ratios=tuple(column.tolist())),),
                )
                for number, column in enumerate(seen.T)
            ]
            result = decide(evidence, policy, look)
            if result.next_look is None:
                break
            look += 1
        assert (CODES[result.verdict], result.pairs) == (verdict, pairs)
    assert set(outcomes.verdicts) == {INCONCLUSIVE, PASS, FAIL}


@pytest.fixture(scope="module")
def usual() -> list[simulate.Row]:
    """600 gates of five cells at a spread of 1 % a pair, with disturbed processes."""
    points: list[simulate.Point] = [("all", 0.0), ("all", 0.025), ("one", 0.025), ("one", 0.05), ("all", 0.05)]
    scene = Scene.of_noise("usual", Noise().at_pair_sd(0.01))
    return scene.rows([*points, ("one", 0.10)], POLICY, GATES, np.random.default_rng(7))


def count(share: tuple[float, float, float]) -> int:
    return round(share[0] * GATES)


def test_an_a_a_gate_hardly_ever_fails_and_is_seldom_inconclusive(usual: list[simulate.Row]) -> None:
    same = usual[0]
    assert count(same.fail) <= most(0.01)
    assert count(same.inconclusive) <= most(0.10)
    assert same.mean_pairs < 9


def test_at_the_margin_itself_false_failures_stay_below_alpha_over_the_whole_family(usual: list[simulate.Row]) -> None:
    for row in usual[1:3]:
        assert row.slowdown == POLICY.margins["latency_s"].relative
        assert count(row.fail) <= most(0.01)


def test_five_per_cent_are_found_in_nine_of_ten_and_never_pass(usual: list[simulate.Row]) -> None:
    for row in usual[3:5]:
        assert row.slowdown == 2 * POLICY.margins["latency_s"].relative
        assert count(row.fail) >= least(0.90)
        assert count(row.passed) == 0
    assert count(usual[5].fail) >= least(0.995)


def test_the_plain_mean_would_miss_what_the_trimmed_mean_finds() -> None:
    random = np.random.default_rng(8)
    noise = Noise().at_pair_sd(0.01)
    ratios = noise.log_ratios(GATES, POLICY.looks[-1], 5, random)
    slow = planted("one", 0.05, 5)
    mean, cut = (verdicts(statistics(ratios, POLICY.looks, trim), POLICY, 0.01, slow) for trim in (0.0, 0.2))
    # Of 600 the shares differ by over 20 per cent, ten standard errors.
    assert cut.share(FAIL) - mean.share(FAIL) > 0.1


def test_gates_drawn_from_a_record_are_judged_like_those_it_was_made_of() -> None:
    recorded = Noise().at_pair_sd(0.01).log_ratios(1, 200, 4, np.random.default_rng(9))[0]
    scene = Scene.of_record("recorded", recorded)
    assert scene.pair_sd == pytest.approx(0.01, rel=0.25)
    rows = scene.rows([("all", 0.0), ("one", 0.05)], POLICY, GATES, np.random.default_rng(10))
    assert count(rows[0].fail) <= most(0.01)
    assert count(rows[1].fail) >= least(0.90)


def test_the_study_writes_its_numbers_and_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate.main(["--gates", "20", "--out", str(tmp_path / "study")])
    document = json.loads((tmp_path / "study" / "gate-simulation.json").read_text())
    assert document["policy"] == POLICY.model_dump(mode="json")
    assert {row["noise"] for row in document["curves"]} == {"sd 1 %", "sd 2 %", "sd 3 %"}
    for row in (*document["curves"], *document["checks"]):
        assert sum(row[verdict][0] for verdict in ("fail", "passed", "inconclusive")) == pytest.approx(1)
        assert row["fail"][1] <= row["fail"][0] <= row["fail"][2]
    assert (tmp_path / "study" / "gate-power.png").read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(document["curves"]) + len(document["checks"])
