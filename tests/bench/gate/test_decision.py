"""What the gate says of evidence whose statistics are known by hand, and every reason that it has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dlmbench.bench.gate.decision import decide
from dlmbench.bench.gate.reasons import REASONS
from dlmbench.profiles.gate import (
    EXIT_CODES,
    CellEvidence,
    CellPolicy,
    Counted,
    GateResult,
    Margin,
    MarginChange,
    Policy,
    Timed,
)

# Six values at steps of one: the trimmed mean is 0 and its error sqrt(9.5 / 12) steps, see test_trimmed.
STEPS = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)
STEP_ERROR = math.sqrt(9.5 / 12)
MARGIN = math.log1p(0.03)
POLICY = Policy(margins={"latency_s": Margin(relative=0.03, floor=5e-5)})
ALONE = Policy(margins=POLICY.margins, looks=(6,))


def timed(centre: float, step: float = 0.001, base: float = 0.1, metric: str = "latency_s") -> Timed:
    """Six pairs whose trimmed mean is `centre`, a log-ratio, with error `STEP_ERROR` steps."""
    return Timed(metric=metric, unit="s", base=base, log_ratios=tuple(centre + step * x for x in STEPS))


def cell(*times: Timed, key: str = "small/ar/L=64", counted: Sequence[Counted] = ()) -> CellEvidence:
    return CellEvidence(key=key, timed=times, counted=tuple(counted))


def at_t(t: float, step: float = 0.001) -> Timed:
    """Pairs whose t statistic against the margin is `t`, with two degrees of freedom."""
    return timed(MARGIN + t * STEP_ERROR * step, step)


def count(base: float | None, head: float | None, name: str = "nfe", direction: str = "lower") -> Counted:
    return Counted.model_validate({"name": name, "base": base, "head": head, "direction": direction})


def test_a_p_value_by_hand_decides_at_the_first_look() -> None:
    # Of alpha 0.01 the first of the looks 6, 9, 13, 18 may spend a ninth: 0.00111. With two degrees of freedom
    # P(T > t) = 1/2 - t / (2 sqrt(2 + t²)): 0.00080 at t = 25, 0.00124 at t = 20.
    assert decide([cell(at_t(25))], POLICY).verdict == "FAIL"
    assert decide([cell(at_t(20))], POLICY).verdict == "INCONCLUSIVE"
    result = decide([cell(at_t(25))], POLICY)
    assert result.alpha == pytest.approx(0.01 / 9)
    assert result.cells[0].timed[0].p == pytest.approx(0.5 - 25 / (2 * math.sqrt(627)))


def test_a_second_question_doubles_the_smaller_p_value() -> None:
    # 0.00080 · 2 is above 0.00111, whatever the second cell says.
    both = decide([cell(at_t(25)), cell(timed(-0.1), key="small/mdlm/L=64")], POLICY)
    assert both.verdict == "INCONCLUSIVE"
    assert both.cells[0].timed[0].p_adjusted == pytest.approx(2 * (0.5 - 25 / (2 * math.sqrt(627))))


def test_the_last_look_may_spend_what_it_adds() -> None:
    # 0.01 · (1 - (13/18)²) = 0.00478: t = 20 is enough, though the pairs are no more.
    result = decide([cell(at_t(20))], POLICY, look=3)
    assert result.verdict == "FAIL"
    assert result.alpha == pytest.approx(0.01 * (1 - (13 / 18) ** 2))


def test_a_pass_needs_the_upper_bound_below_the_margin() -> None:
    # The 95 % point of t with two degrees of freedom: 2.91999.
    bound = 2.91999 * STEP_ERROR * 0.001
    assert decide([cell(timed(MARGIN - bound - 1e-6))], POLICY).outcome.code == "passed"
    assert decide([cell(timed(MARGIN - bound + 1e-6))], POLICY).outcome.code == "undecided"


def test_numbers_are_relative_changes_of_the_metric() -> None:
    judgement = decide([cell(timed(math.log(1.1)))], POLICY).cells[0].timed[0]
    assert judgement.change == pytest.approx(0.1)
    assert judgement.low is not None
    assert judgement.high is not None
    # The two-sided 95 % point of t with two degrees of freedom: 4.30265.
    half = 4.30265 * STEP_ERROR * 0.001
    assert judgement.low == pytest.approx(1.1 * math.exp(-half) - 1, rel=1e-5)
    assert judgement.high == pytest.approx(1.1 * math.exp(half) - 1, rel=1e-5)


def test_more_pairs_are_wanted_while_there_are_looks() -> None:
    open_cell = [cell(timed(0.03, step=0.02))]
    results = [decide(open_cell, POLICY, look) for look in range(4)]
    assert [(result.look, result.next_look) for result in results] == [(1, 9), (2, 13), (3, 18), (4, None)]
    assert "no look is left" in decide(open_cell, POLICY, 3).outcome.message
    assert decide([cell(at_t(25))], POLICY).next_look is None
    assert decide([cell(timed(0.0))], POLICY).next_look is None
    with pytest.raises(ValueError, match="not one of the 4"):
        decide(open_cell, POLICY, 4)


def test_where_more_is_better_the_floor_is_compared_with_what_is_lost() -> None:
    # Turned round by log 2: 100 tok/s became 50. Lost are 50, not 100.
    rate = Timed(
        metric="throughput_tok_s", unit="tok/s", base=100, log_ratios=tuple(math.log(2) + 1e-4 * x for x in STEPS)
    )
    for floor, verdict in ((49.0, "FAIL"), (51.0, "PASS")):
        policy = Policy(margins={"throughput_tok_s": Margin(relative=0.03, floor=floor)}, looks=(6,))
        assert decide([cell(rate)], policy).verdict == verdict


def unpaired(shift: float, processes: int = 8, spread: float = 0.002) -> Timed:
    """Two stored runs, logs of latencies about 0.1 s, the head's moved by `shift`."""
    logs = math.log(0.1) + spread * np.linspace(-1, 1, processes)
    return Timed(metric="latency_s", unit="s", base=0.1, base_logs=tuple(logs), head_logs=tuple(logs + shift))


def test_stored_runs_are_looked_at_once_and_spend_all_of_alpha() -> None:
    result = decide([cell(unpaired(0.10))], POLICY)
    assert (result.verdict, result.alpha, result.next_look) == ("FAIL", 0.01, None)
    assert decide([cell(unpaired(0.0))], POLICY).verdict == "PASS"
    few = decide([cell(unpaired(0.10, processes=5))], POLICY)
    assert (few.verdict, few.next_look) == ("INCONCLUSIVE", None)
    assert "more processes" in few.outcome.message


def test_what_some_cells_may_do_is_their_own() -> None:
    wide = CellPolicy(match="small/ar/*", margins={"latency_s": MarginChange(relative=0.2)})
    policy = Policy(margins=POLICY.margins, cells=(wide,))
    slow = [cell(timed(0.1)), cell(timed(0.1), key="small/mdlm/L=64")]
    assert decide(slow[:1], policy, 3).verdict == "PASS"
    judged = decide(slow, policy, 3)
    assert [one.outcome.verdict for one in judged.cells] == ["PASS", "FAIL"]
    assert judged.outcome.message.startswith("small/mdlm/L=64: ")
    # The floor that the change does not mention stays.
    assert judged.cells[0].timed[0].floor == 5e-5


def test_the_worst_cell_speaks_and_the_others_are_counted() -> None:
    slow = [cell(timed(x), key=f"small/ar/L={n}") for n, x in ((8, 0.10), (16, 0.20), (32, 0.0))]
    result = decide(slow, ALONE)
    assert result.outcome.message.startswith("small/ar/L=16: latency_s +22.1 %")
    assert "(and 1 more of 3 cells)" in result.outcome.message


SPOILED = CellEvidence(key="small/ar/L=64", spoiled=("throttled", "the clock fell to 60 %"))
FEWER = [count(64, 32)]
CASES: list[tuple[str, list[CellEvidence], Policy]] = [
    ("worse", [cell(timed(0.1))], ALONE),
    ("within_margin", [cell(timed(0.0))], ALONE),
    ("better", [cell(timed(-0.1))], ALONE),
    ("below_floor", [cell(timed(0.1, base=1e-4))], ALONE),
    ("undecided", [cell(timed(0.03))], ALONE),
    # 10 % of 5e-4 s is the floor itself: the bound lies above, the estimate just below.
    ("near_floor", [cell(timed(math.log(1.0999), base=5e-4))], ALONE),
    ("too_few_pairs", [cell(Timed(metric="latency_s", unit="s", base=1, log_ratios=(0.5,)))], POLICY),
    ("too_few_processes", [cell(unpaired(0.1, processes=5))], POLICY),
    ("no_margin", [cell(timed(0.0), timed(0.5, metric="ttft_s"))], ALONE),
    ("no_ratios", [cell(Timed(metric="latency_s", unit="s", base=1))], POLICY),
    ("not_finite", [cell(timed(math.nan))], POLICY),
    ("not_finite", [cell(timed(math.inf))], POLICY),
    ("not_finite", [cell(timed(0.0, base=0.0))], POLICY),
    ("not_finite", [cell(timed(20.0))], POLICY),
    ("not_finite", [cell(unpaired(1e308))], POLICY),
    ("no_spread", [cell(timed(0.1, step=0.0))], POLICY),
    ("no_spread", [cell(unpaired(0.0, spread=0.0))], POLICY),
    ("equal", [cell(timed(0.0), counted=[count(64, 64)])], ALONE),
    ("within_tolerance", [cell(timed(0.0), counted=[count(100, 105, "memory_peak_b")])], ALONE),
    ("no_value", [cell(timed(0.0), counted=[count(None, None)])], ALONE),
    ("not_gated", [cell(timed(0.0), counted=[count(1, 2)])], ALONE.model_copy(update={"ungated": ("nfe",)})),
    ("acknowledged", [cell(timed(0.0), counted=FEWER)], ALONE.model_copy(update={"accept_changed": True})),
    ("work_improved", [cell(timed(0.0), counted=FEWER)], ALONE),
    ("work_changed", [cell(timed(0.0), counted=[count(8, 7, "output_tokens", "neutral")])], ALONE),
    ("work_unknown", [cell(timed(0.0), counted=[count(None, 7)])], ALONE),
    ("work_worse", [cell(timed(0.0), counted=[count(32, 64)])], ALONE),
    ("work_hidden", [cell(timed(0.0), counted=[count(32, None)])], ALONE),
    ("count_not_finite", [cell(timed(0.0), counted=[count(32, math.nan)])], ALONE),
    ("passed", [cell(timed(0.0))], ALONE),
    ("no_evidence", [cell()], POLICY.model_copy(update={"margins": {}})),
    ("time_missing", [cell(timed(0.0)), cell(counted=[count(1, 1)], key="other")], ALONE),
    ("metric_missing", [cell(timed(0.0, metric="ttft_s"))], ALONE),
    ("duplicate_cell", [cell(timed(0.0)), cell(timed(0.0))], ALONE),
    ("no_cells", [], POLICY),
]


def reasons(result: GateResult) -> dict[str, str]:
    """Every code that the result gives, of the gate, its cells and their parts, and its verdict."""
    parts = [result.outcome]
    for one in result.cells:
        parts += [one.outcome, *(time.outcome for time in one.timed), *(outcome for _, outcome in one.counted)]
    return {part.code: part.verdict for part in parts}


@pytest.mark.parametrize(("code", "evidence", "policy"), CASES)
def test_each_reason_is_given_where_it_holds(code: str, evidence: list[CellEvidence], policy: Policy) -> None:
    result = decide(evidence, policy)
    given = reasons(result)
    assert code in given
    assert given[code] == REASONS[code][0]
    # A PASS of one part is not the gate's; every other verdict of a part is at least the gate's.
    if REASONS[code][0] != "PASS":
        assert result.verdict == REASONS[code][0]
    else:
        assert result.verdict == "PASS"
    assert result.outcome.message


def test_every_reason_has_a_case() -> None:
    # Two are said by the loop, which asks `decide` again and again (test_looks).
    assert {code for code, _, _ in CASES} | {"budget", "not_the_ref"} == set(REASONS)


def test_a_spoiled_cell_invalidates_the_gate_with_its_own_reason_even_beside_a_slowdown() -> None:
    result = decide([SPOILED, cell(timed(0.1), key="other")], ALONE)
    assert (result.verdict, result.outcome.code) == ("INVALID", "throttled")
    assert "the clock fell to 60 %" in result.outcome.message


def test_fewer_forwards_are_changed_and_more_are_a_failure_in_either_direction() -> None:
    assert decide([cell(timed(0.0), counted=[count(64, 32)])], ALONE).verdict == "CHANGED"
    assert decide([cell(timed(0.0), counted=[count(1.0, 2.0, "tokens_per_forward", "higher")])], ALONE).verdict == (
        "CHANGED"
    )
    assert decide([cell(timed(0.0), counted=[count(2.0, 1.0, "tokens_per_forward", "higher")])], ALONE).verdict == (
        "FAIL"
    )


def test_accepting_a_change_accepts_neither_more_work_nor_hidden_work() -> None:
    accepting = ALONE.model_copy(update={"accept_changed": True})
    for counted, verdict in ((count(64, 32), "PASS"), (count(None, 3), "PASS"), (count(32, 64), "FAIL")):
        assert decide([cell(timed(0.0), counted=[counted])], accepting).verdict == verdict
    assert decide([cell(timed(0.0), counted=[count(3, None)])], accepting).verdict == "INVALID"


def test_a_slowdown_is_worse_than_a_change_and_a_change_than_nothing() -> None:
    assert decide([cell(timed(0.1), counted=FEWER)], ALONE).verdict == "FAIL"
    assert decide([cell(timed(0.03), counted=FEWER)], ALONE).verdict == "INCONCLUSIVE"


def test_a_counter_may_be_one_forward_off_and_is_told_to_the_last_digit() -> None:
    result = decide([cell(timed(0.0), counted=[count(1_000_000, 1_000_001)])], ALONE)
    assert result.verdict == "FAIL"
    assert "1,000,000 -> 1,000,001" in result.outcome.message


def test_counters_alone_pass_where_no_time_is_gated() -> None:
    policy = Policy(margins={})
    assert decide([cell(counted=[count(3, 3)])], policy).verdict == "PASS"
    assert decide([cell(counted=[count(3, 4)])], policy).verdict == "FAIL"


def test_what_takes_no_time_needs_none() -> None:
    certificate = CellEvidence(key="certificate of small", timeless=True, counted=(count(3, 3),))
    assert decide([cell(timed(0.0)), certificate], ALONE).verdict == "PASS"
    assert decide([cell(timed(0.0)), certificate.model_copy(update={"timeless": False})], ALONE).verdict == "INVALID"


def test_every_verdict_has_an_exit_code_and_only_a_pass_exits_with_zero() -> None:
    assert {verdict for verdict, code in EXIT_CODES.items() if code == 0} == {"PASS"}
    assert {REASONS[code][0] for code in REASONS} == set(EXIT_CODES)


def test_the_result_is_json_and_back() -> None:
    for _, evidence, policy in CASES:
        result = decide(evidence, policy)
        if not any(value != value for one in result.cells for counted, _ in one.counted for value in (counted.head,)):
            assert GateResult.model_validate_json(result.model_dump_json()) == result
