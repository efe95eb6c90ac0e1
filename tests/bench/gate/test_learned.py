"""Margins learned from A/A evidence: they keep their promise on new gates, and say when not to be trusted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from dlmbench import InputError
from dlmbench.bench.gate.arrays import FAIL, PASS, statistics, verdicts
from dlmbench.bench.gate.learned import learn_margins, learned_toml
from dlmbench.bench.gate.noise import Noise
from dlmbench.bench.gate.policy import read_policy
from dlmbench.bench.gate.trimmed import Floats
from dlmbench.profiles.gate import CellEvidence, Margin, Policy, Timed

POLICY = Policy()


def evidence(ratios: Floats, base: float = 0.01, metric: str = "latency_s") -> list[CellEvidence]:
    """A/A evidence of log-ratios [pairs, cells]."""
    return [
        CellEvidence(
            key=f"cell-{number}",
            timed=(Timed(metric=metric, unit="s", base=base, log_ratios=tuple(column.tolist())),),
        )
        for number, column in enumerate(ratios.T)
    ]


def noisy(spread: float, pairs: int = 300, seed: int = 1) -> Floats:
    return Noise().at_pair_sd(spread).log_ratios(1, pairs, 5, np.random.default_rng(seed))[0]


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_new_gates_pass_within_their_looks_as_often_as_promised_and_detect_what_is_said(spread: float) -> None:
    policy, (learned,) = learn_margins(evidence(noisy(spread)), POLICY)
    fresh = Noise().at_pair_sd(spread).log_ratios(1000, POLICY.looks[-1], 5, np.random.default_rng(2))
    looked = statistics(fresh, POLICY.looks)
    # 95 % asked of noise known from 300 pairs (its sd to 4 %): at least 90 % of 1000 new gates, but not all of them,
    # which a needlessly wide margin would give.
    passed = verdicts(looked, policy, 0.01).count(PASS)
    assert binom.ppf(1e-4, 1000, 0.90) <= passed <= binom.ppf(1 - 1e-4, 1000, 0.98)
    assert learned.detects is not None
    found = verdicts(looked, policy, 0.01, math.log1p(learned.detects)).share(FAIL)
    assert found == pytest.approx(0.93, abs=0.07)
    assert learned.warning is None
    assert learned.pairs == 300


def test_three_times_the_noise_needs_about_three_times_the_margin() -> None:
    margins = [learn_margins(evidence(noisy(spread)), POLICY)[1][0].margin.relative for spread in (0.01, 0.03)]
    assert margins[1] / margins[0] == pytest.approx(3, rel=0.25)


def test_cells_below_the_floor_need_no_margin() -> None:
    policy = Policy(margins={"latency_s": Margin(relative=0.025, floor=1.0)})
    _, (learned,) = learn_margins(evidence(noisy(0.03), base=0.01), policy)
    assert learned.margin == Margin(relative=0.001, floor=1.0)


def test_the_margin_is_a_whole_number_of_thousandths_and_repeats() -> None:
    first = learn_margins(evidence(noisy(0.02)), POLICY)[1][0]
    assert first == learn_margins(evidence(noisy(0.02)), POLICY)[1][0]
    assert (1000 * first.margin.relative) == pytest.approx(round(1000 * first.margin.relative))


def test_sides_that_differ_are_no_a_a_comparison() -> None:
    ratios = noisy(0.01, pairs=30)
    ratios[:, 2] += 0.02
    _, (learned,) = learn_margins(evidence(ratios), POLICY)
    assert learned.warning is not None
    assert learned.warning.startswith("the two sides differ in cell-2 by +")


def test_what_was_learned_is_written_as_a_policy_that_reads_back(tmp_path: Path) -> None:
    policy, learned = learn_margins(evidence(noisy(0.02, pairs=24)), POLICY)
    path = tmp_path / "gate.toml"
    path.write_text(learned_toml(policy, learned))
    assert read_policy(path) == policy
    assert path.read_text().startswith("# latency_s: learned from 24 A/A pairs, sd of a pair's ratio ")


def test_evidence_that_teaches_nothing_is_refused() -> None:
    few = noisy(0.01, pairs=5)
    with pytest.raises(InputError, match="has 5 undisturbed pairs of processes, expected 6 or more"):
        learn_margins(evidence(few), POLICY)
    with pytest.raises(InputError, match="no cell has latency_s"):
        learn_margins(evidence(noisy(0.01), metric="ttft_s"), POLICY)
    with pytest.raises(InputError, match="no cell has latency_s"):
        learn_margins([], POLICY)
    broken = noisy(0.01)
    broken[3, 1] = math.nan
    with pytest.raises(InputError, match="not a positive, finite number"):
        learn_margins(evidence(broken), POLICY)
    spoiled = [CellEvidence(key="a", spoiled=("throttled", "the clock fell"))]
    with pytest.raises(InputError, match=r"cell a is spoiled \(the clock fell\)"):
        learn_margins(spoiled, POLICY)
