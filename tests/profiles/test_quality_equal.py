"""Speed at equal quality: verdicts by hand, joint intervals by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from dlmbench import InputError
from dlmbench.profiles.quality import (
    Allowance,
    Contender,
    difference,
    noninferior,
    smallest_steps_within,
    speedup_at_equal_quality,
)
from dlmbench.profiles.quality.intervals import mean, share
from dlmbench.profiles.record import Value

FIVE_PERCENT = Allowance(higher_is_better=True, relative=0.05, estimate="share")


def speed(value: float, spread: float = 0.02, n: int = 10) -> Value:
    return Value(value=value, low=value * math.exp(-spread), high=value * math.exp(spread), n=n, level=0.95)


def contender(steps: int, speedup: float, valid: int, of: int = 1000) -> Contender:
    return Contender(f"T={steps}", steps, speed(speedup), share(valid, of))


def test_the_difference_of_two_shares_is_newcombes() -> None:
    """Newcombe 1998, table II, example (a), method 10: 56/70 - 48/80 = 0.2, from 0.0524 to 0.3339."""
    value = difference(share(56, 70), share(48, 80))
    assert value.value == pytest.approx(0.2)
    assert (value.low, value.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_difference_of_missing_values_keeps_the_reason() -> None:
    assert difference(Value(value=None, why="no cache"), share(1, 2)).why == "no cache"
    assert difference(Value(value=1.0), share(1, 2)).why == "one of the two has no interval"


def test_few_texts_are_undecided_never_equal() -> None:
    ar = share(990, 1000)
    assert noninferior(share(985, 1000), ar, FIVE_PERCENT) == "proven"
    assert noninferior(share(19, 20), ar, FIVE_PERCENT) == "undecided"
    assert noninferior(share(800, 1000), ar, FIVE_PERCENT) == "worse"
    assert noninferior(Value(value=0.99), ar, FIVE_PERCENT) == "undecided"


def test_lower_is_better_and_an_absolute_allowance() -> None:
    def nats(value: float) -> Value:
        return Value(value=value, low=value - 0.01, high=value + 0.01, n=1000, level=0.95)

    within = Allowance(higher_is_better=False, absolute=0.05)
    assert noninferior(nats(0.13), nats(0.10), within) == "proven"  # 0.03 ± 0.014 above AR
    assert noninferior(nats(0.14), nats(0.10), within) == "undecided"  # 0.04 ± 0.014
    assert noninferior(nats(0.17), nats(0.10), within) == "worse"  # 0.07 ± 0.014
    relative = Allowance(higher_is_better=False, relative=0.1)
    assert noninferior(nats(2.1), nats(2.0), relative) == "proven"  # 0.1 below 2.2
    assert noninferior(nats(2.3), nats(2.0), relative) == "worse"
    with pytest.raises(InputError, match="give an absolute one"):
        noninferior(nats(0.1), Value(value=0.0, low=0.0, high=0.1, n=5, level=0.95), relative)
    with pytest.raises(InputError, match="absolute be 0 or more"):
        Allowance(higher_is_better=True, absolute=-1)
    assert [str(a) for a in (relative, within, Allowance(True))] == ["10 %", "0.05", "0 %"]


def test_the_fastest_proven_setting_and_its_joint_interval() -> None:
    """T=16 is proven, T=8 undecided (5.5 % fewer), T=4 worse: value of T=16, from its lower bound to T=8's upper.

    Six intervals for three settings: level 1 - 0.05 / 6 and t with 9 degrees of freedom widen ± 0.02 on logarithms.
    """
    tried = [contender(16, 2.0, 980), contender(8, 4.0, 935), contender(4, 8.0, 500)]
    found = speedup_at_equal_quality(tried, share(990, 1000), FIVE_PERCENT)
    assert found.verdicts == {"T=16": "proven", "T=8": "undecided", "T=4": "worse"}
    assert (found.best, found.value.value, found.value.level) == ("T=16", 2.0, 0.95)
    half = 0.02 * student.ppf(1 - 0.025 / 6, 9) / student.ppf(0.975, 9)
    assert found.value.low == pytest.approx(2.0 * math.exp(-half))
    assert found.value.high == pytest.approx(4.0 * math.exp(half))


def test_fewest_steps() -> None:
    tried = [contender(32, 1.0, 985), contender(16, 2.0, 980), contender(8, 4.0, 935), contender(4, 8.0, 500)]
    found = smallest_steps_within(tried, share(990, 1000), FIVE_PERCENT)
    assert (found.best, found.value.value) == ("T=16", 16)
    assert (found.value.low, found.value.high) == (8, 16)


def test_none_proven_says_why() -> None:
    found = speedup_at_equal_quality([contender(8, 4.0, 600)], share(990, 1000), FIVE_PERCENT)
    assert found.value.value is None
    assert found.value.why is not None
    assert "shown to be within 5 % of AR's 0.99 [0.982, 0.995]; the nearest, T=8, has 0.6 [" in found.value.why
    missing = speedup_at_equal_quality([contender(8, 4.0, 600)], Value(value=None, why="crashed"), FIVE_PERCENT)
    assert missing.value.why == "AR's quality is missing: crashed"
    nothing = smallest_steps_within([], share(990, 1000), FIVE_PERCENT)
    assert nothing.value.why == "no diffusion setting has both a speed-up and a quality"


def test_without_five_processes_there_is_no_level() -> None:
    one = Contender("T=16", 16, Value(value=2.0, low=1.9, high=2.1, n=1), share(980, 1000))
    found = speedup_at_equal_quality([one], share(990, 1000), FIVE_PERCENT)
    assert (found.value.value, found.value.low, found.value.high, found.value.level) == (2.0, 1.9, 2.1, None)
    bare = Contender("T=16", 16, Value(value=2.0), share(980, 1000))
    assert speedup_at_equal_quality([bare], share(990, 1000), FIVE_PERCENT).value.why == "a speed-up has no interval"


def test_the_joint_interval_covers_although_the_best_of_many_is_picked() -> None:
    """Eight settings, AR 0.95 valid, allowance 0.03. The fastest truly non-inferior setting gives 5 times, and those
    faster are just beyond the allowance: whoever picks by the values alone claims too much in every fifth run."""
    rng = np.random.default_rng(0)
    valid = [0.95, 0.95, 0.94, 0.94, 0.93, 0.915, 0.915, 0.6]
    speeds = [1.0, 1.5, 2.0, 3.0, 5.0, 6.0, 7.0, 20.0]
    allowance = Allowance(higher_is_better=True, absolute=0.03, estimate="share")
    hits, naive, claimed = 0, 0, 0
    for _ in range(300):
        ar = share(int(rng.binomial(4000, 0.95)), 4000)
        tried = []
        for at, (p, s) in enumerate(zip(valid, speeds, strict=True)):
            logs = mean(rng.normal(math.log(s), 0.03, 6))
            assert logs.value is not None
            assert logs.low is not None
            assert logs.high is not None
            measured = Value(
                value=math.exp(logs.value), low=math.exp(logs.low), high=math.exp(logs.high), n=6, level=0.95
            )
            tried.append(Contender(str(at), at, measured, share(int(rng.binomial(4000, p)), 4000)))
        found = speedup_at_equal_quality(tried, ar, allowance)
        claimed += found.value.value is not None
        assert found.value.low is not None
        assert found.value.high is not None
        hits += found.value.low <= 5.0 <= found.value.high
        by_value = [c for c in tried if (c.quality.value or 0) >= (ar.value or 0) - 0.03]
        naive += max(c.speedup.value or 0 for c in by_value) > 5.5
    assert claimed == 300
    assert hits / 300 > 0.95
    assert naive / 300 > 0.2


def test_engines_that_share_their_texts_cost_one_interval_of_quality() -> None:
    """Each setting listed again on another engine brings a speed to look at, but no second interval of quality."""
    allowance = Allowance(higher_is_better=True, absolute=0.05, estimate="share")
    ar = share(251, 256)
    valid = next(k for k in range(256, 0, -1) if noninferior(share(k, 256), ar, allowance, among=8) == "proven")
    while noninferior(share(valid - 1, 256), ar, allowance, among=8) == "proven":
        valid -= 1
    assert noninferior(share(valid, 256), ar, allowance, among=16) != "proven"
    once = [Contender(f"T={t}", t, speed(2.0), share(valid if t == 1 else 9, 256), f"T={t}") for t in range(1, 9)]
    again = [replace(c, name=f"{c.name},compile") for c in once]
    assert smallest_steps_within(once, ar, allowance).value.value == 1
    assert smallest_steps_within(once + again, ar, allowance).value.value == 1
    apart = [replace(c, judgement=f"{c.judgement},other texts") for c in again]
    assert smallest_steps_within(once + apart, ar, allowance).value.value is None


def test_too_few_texts_are_named_as_the_reason() -> None:
    allowance = Allowance(higher_is_better=True, absolute=0.05, estimate="share")
    few, many = (
        speedup_at_equal_quality([Contender("T=64", 64, speed(2.0), found)], share(256, 256), allowance)
        for found in (share(16, 16), share(150, 256))
    )
    assert "of 16 texts: too few" in (few.value.why or "")
    assert many.value.value is None
    assert "too few" not in (many.value.why or "")
