"""What must hold of any evidence: symmetries, monotony, and that nothing broken ever passes."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.bench.gate.decision import decide
from dlmbench.bench.gate.reasons import REASONS
from dlmbench.profiles.gate import SEVERITY, CellEvidence, Counted, GateResult, Margin, Policy, Timed

NAN, INF = math.nan, math.inf
ORDER = {"PASS": 0, "INCONCLUSIVE": 1, "FAIL": 2}


@dataclass(frozen=True)
class Case:
    """Healthy evidence with noise of its own, a policy and a look."""

    evidence: tuple[CellEvidence, ...]
    policy: Policy
    look: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    policy = Policy(
        alpha=draw(st.sampled_from([0.01, 0.05, 0.2])),
        margins={"latency_s": Margin(relative=0.03, floor=draw(st.sampled_from([0.0, 5e-5, 2e-3])))},
    )
    look = draw(st.integers(0, 3))
    spread = draw(st.sampled_from([1e-4, 0.01, 0.05]))
    centres = [draw(st.sampled_from([-0.3, 0.0, 0.02, 0.03, 0.04, 0.06, 0.2])) for _ in range(draw(st.integers(1, 5)))]
    return Case(tuple(_cell(n, x, spread, policy.looks[look], random) for n, x in enumerate(centres)), policy, look)


def _cell(number: int, centre: float, spread: float, pairs: int, random: np.random.Generator) -> CellEvidence:
    ratios = tuple((centre + spread * random.standard_normal(pairs)).tolist())
    base = float(random.choice([1e-3, 0.01, 1.0]))
    return CellEvidence(
        key=f"cell-{number}", timed=(Timed(metric="latency_s", unit="s", base=base, log_ratios=ratios),)
    )


def changed(cell: CellEvidence, **update: object) -> CellEvidence:
    return cell.model_copy(update={"timed": (cell.timed[0].model_copy(update=update),)})


def shifted(cell: CellEvidence, by: float) -> CellEvidence:
    return changed(cell, log_ratios=tuple(x + by for x in cell.timed[0].log_ratios))


def judge(case: Case, *evidence: CellEvidence) -> GateResult:
    return decide(evidence or case.evidence, case.policy, case.look)


@given(cases())
def test_another_unit_of_time_changes_nothing(case: Case) -> None:
    # A power of two multiplies exactly, so that not even the last digit moves.
    scaled = [changed(cell, base=1024 * cell.timed[0].base) for cell in case.evidence]
    margin = case.policy.margins["latency_s"]
    policy = case.policy.model_copy(
        update={"margins": {"latency_s": margin.model_copy(update={"floor": 1024 * margin.floor})}}
    )
    before, after = judge(case), decide(scaled, policy, case.look)
    assert [cell.outcome.code for cell in after.cells] == [cell.outcome.code for cell in before.cells]


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_cells_and_of_pairs_changes_nothing(case: Case, shuffler: Random) -> None:
    cells = list(case.evidence)
    shuffler.shuffle(cells)
    turned = [changed(cell, log_ratios=cell.timed[0].log_ratios[::-1]) for cell in cells]
    before, after = judge(case), judge(case, *turned)
    assert (after.verdict, after.outcome.message) == (before.verdict, before.outcome.message)
    assert {cell.key: cell for cell in after.cells} == {cell.key: cell for cell in before.cells}


@given(cases(), st.sampled_from([0.001, 0.01, 0.1]))
def test_a_slower_head_is_never_judged_more_kindly(case: Case, by: float) -> None:
    slower = (shifted(case.evidence[0], by), *case.evidence[1:])
    assert ORDER[judge(case, *slower).verdict] >= ORDER[judge(case).verdict]


@given(cases(), st.integers(0, 2**32))
def test_one_more_cell_that_got_faster_fails_nothing(case: Case, seed: int) -> None:
    before = judge(case)
    faster = _cell(9, -0.3, 1e-3, case.policy.looks[case.look], np.random.default_rng(seed))
    after = judge(case, *case.evidence, faster)
    assert after.verdict == before.verdict or (before.verdict, after.verdict) == ("FAIL", "INCONCLUSIVE")


@given(cases())
def test_a_failure_names_a_change_above_margin_and_floor_and_a_pass_bounds_below_one_of_them(case: Case) -> None:
    result = judge(case)
    margin = case.policy.margins["latency_s"]
    for cell in result.cells:
        time = cell.timed[0]
        assert time.change is not None
        assert time.upper is not None
        assert time.base is not None
        if cell.outcome.verdict == "FAIL":
            assert time.change > margin.relative
            assert time.change * time.base > margin.floor
            assert time.p_adjusted is not None
            assert time.p_adjusted < result.alpha
        if cell.outcome.verdict == "PASS":
            assert time.upper < margin.relative or time.upper * time.base < margin.floor


@given(cases(), st.sampled_from([NAN, INF, -INF]), st.integers(0, 2**16))
def test_one_value_that_is_no_number_makes_the_gate_invalid(case: Case, broken: float, place: int) -> None:
    cell = case.evidence[place % len(case.evidence)]
    ratios = list(cell.timed[0].log_ratios)
    ratios[place % len(ratios)] = broken
    others = [other for other in case.evidence if other is not cell]
    assert judge(case, changed(cell, log_ratios=tuple(ratios)), *others).verdict == "INVALID"
    assert judge(case, changed(cell, base=broken), *others).verdict == "INVALID"


@given(cases(), st.integers(0, 2**16))
def test_swapping_the_sides_turns_a_failure_into_an_improvement(case: Case, place: int) -> None:
    if judge(case).verdict == "FAIL":
        swapped = [changed(c, log_ratios=tuple(-x for x in c.timed[0].log_ratios)) for c in case.evidence]
        failed = {c.key for c in judge(case).cells if c.outcome.verdict == "FAIL"}
        assert all(c.outcome.code == "better" for c in judge(case, *swapped).cells if c.key in failed)


SPECIAL = (NAN, INF, -INF, 0.0, -0.0, 1e308, -1e308, 1.797e308, 5e-324, 0.03, 13.9, 700.0)


def odd_number(random: Random) -> float:
    """Mostly a believable log-ratio or time; else a special value or any 64 bits."""
    kind = random.random()
    if kind < 0.8:
        return random.gauss(0.0, 0.02)
    return random.choice(SPECIAL) if kind < 0.9 else float(struct.unpack("d", random.randbytes(8))[0])


def odd_evidence(random: Random) -> list[CellEvidence]:
    def several() -> tuple[float, ...]:
        # Half of the samples hold nothing odd, or hardly one would be judged.
        healthy = random.random() < 0.5
        return tuple(
            random.gauss(0.0, 0.01) if healthy else odd_number(random) for _ in range(random.choice((0, 1, 5, 6, 9)))
        )

    def timed() -> Timed:
        return Timed(
            metric=random.choice(("latency_s", "latency_s", "throughput_tok_s", "time_to_k_s[8]", "unheard_of")),
            unit=random.choice(("s", "tok/s", "1")),
            base=random.choice((0.01, 0.01, odd_number(random))),
            log_ratios=several() if random.random() < 0.7 else (),
            base_logs=several() if random.random() < 0.3 else (),
            head_logs=several() if random.random() < 0.3 else (),
        )

    def counted() -> Counted:
        base, head = (random.choice((None, 64.0, 64.0, odd_number(random))) for _ in range(2))
        direction = random.choice(("lower", "higher", "neutral"))
        name = random.choice(("nfe", "memory_peak_b", "unheard_of"))
        return Counted.model_validate({"name": name, "base": base, "head": head, "direction": direction})

    return [
        CellEvidence(
            key=random.choice(("a", "b", "small/ar/L=64")),
            timed=tuple(timed() for _ in range(random.randrange(3))),
            counted=tuple(counted() for _ in range(random.choice((0, 0, 1, 2)))),
            spoiled=("throttled", "the clock fell") if random.random() < 0.05 else None,
        )
        for _ in range(random.choice((0, 1, 1, 1, 2, 3)))
    ]


def test_two_thousand_odd_evidences_get_a_verdict_and_never_pass_by_accident() -> None:
    random = Random(0)
    policies = (Policy(), Policy(margins={}), Policy(accept_changed=True))
    seen: Counter[str] = Counter()
    for _ in range(2000):
        evidence, policy, look = odd_evidence(random), random.choice(policies), random.randrange(4)
        result = decide(evidence, policy, look)
        GateResult.model_validate_json(result.model_dump_json())
        verdicts = [result.outcome.verdict, *(cell.outcome.verdict for cell in result.cells)]
        assert result.verdict == max(verdicts, key=SEVERITY.index)
        assert result.outcome.message
        seen[result.verdict] += 1
        if result.verdict != "PASS":
            continue
        assert evidence
        for given_cell, cell in zip(evidence, result.cells, strict=True):
            assert given_cell.spoiled is None
            for timed, time in zip(given_cell.timed, cell.timed, strict=True):
                assert time.outcome.code in REASONS
                if policy.margin(cell.key, timed.metric) is not None:
                    assert time.upper is not None
                    assert math.isfinite(time.upper)
                    assert time.pairs >= 6
    assert set(seen) == set(SEVERITY)
