"""From trials to evidence: ratios by hand, what spoils a cell, what of the work is compared."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench.gate.evidence import certificate_evidence, drift, paired_evidence, unpaired_evidence, without_drift
from dlmbench.profiles.record import Calibration, CertificateRow, PairRecord, Reason


def test_a_pair_gives_the_median_log_ratio_of_its_common_rounds(fakes: ModuleType) -> None:
    cell = fakes.cell()
    base = [fakes.trial(cell, [0.10, 0.10, 0.20], process=0), fakes.trial(cell, [0.10, 0.10], process=1)]
    head = [fakes.trial(cell, [0.11, 0.12, 0.21], process=0), fakes.trial(cell, [0.10, 0.30], process=1)]
    (found,) = paired_evidence([cell], base, head, ["latency_s"])
    (timed,) = found.timed
    # 1.1, 1.2 and 1.05: the median is 1.1. Of 1 and 3 the median of the logs is halfway.
    assert timed.log_ratios == pytest.approx((math.log(1.1), math.log(3) / 2))
    assert timed.base == pytest.approx(0.10)
    assert (timed.unit, timed.base_logs, found.spoiled) == ("s", (), None)


def test_what_is_better_when_larger_is_turned_round(fakes: ModuleType) -> None:
    cell = fakes.cell()
    base, head = ([fakes.trial(cell, [latency] * 3)] for latency in (0.1, 0.2))
    (found,) = paired_evidence([cell], base, head, ["throughput_tok_s", "latency_s"])
    assert [timed.log_ratios for timed in found.timed] == [pytest.approx((math.log(2),))] * 2


def test_discarded_samples_count_on_neither_side(fakes: ModuleType) -> None:
    cell = fakes.cell()
    trial = fakes.trial(cell, [0.1, 0.1])
    disturbed = trial.samples[1].model_copy(update={"latency_s": 9.0, "discarded": "disturbed"})
    head = trial.model_copy(update={"samples": (trial.samples[0], disturbed)})
    (found,) = paired_evidence([cell], [trial], [head], ["latency_s"])
    assert found.timed[0].log_ratios == (0.0,)


def test_a_metric_that_a_cell_does_not_have_is_left_out(fakes: ModuleType) -> None:
    cell = fakes.cell("masked-diffusion", 2)  # no inter-token latency
    trials = [fakes.trial(cell, [0.1, 0.1])]
    (found,) = paired_evidence([cell], trials, trials, ["latency_s", "itl_s"])
    assert [timed.metric for timed in found.timed] == ["latency_s"]


def reasoned(code: str) -> Reason:
    return Reason(code=code, message="a reason")


@pytest.mark.parametrize(
    ("status", "code", "spoiled"),
    [("failed", "crash", "failed"), ("failed", "out_of_memory", "failed"), ("invalid", "work", "invalid"),
     ("skipped", "memory", "skipped"), ("invalid", "disturbed", None), ("invalid", "throttled", None)],
)  # fmt: skip
def test_a_process_that_failed_spoils_its_cell_one_that_was_disturbed_is_left_out(
    fakes: ModuleType, status: Any, code: str, spoiled: str | None
) -> None:
    cell = fakes.cell()
    good = [fakes.trial(cell, [0.1, 0.1], process=number) for number in range(2)]
    lost = fakes.trial(cell, [], process=1, status=status, reason=reasoned(code))
    (found,) = paired_evidence([cell], good, [good[0], lost], ["latency_s"])
    if spoiled is None:
        assert found.spoiled is None
        assert found.timed[0].log_ratios == (0.0,)
    else:
        assert found.spoiled == (spoiled, f"head, process 1: {code}: a reason")
        assert found.timed == ()


def test_a_cell_that_one_side_lacks_is_missing(fakes: ModuleType) -> None:
    cell, other = fakes.cell(), fakes.cell("masked-diffusion", 2)
    both = [fakes.trial(cell, [0.1, 0.1]), fakes.trial(other, [0.1, 0.1])]
    found = paired_evidence([cell, other], both, both[:1], ["latency_s"])
    assert [each.spoiled for each in found] == [None, ("missing", "head did not measure this cell")]


def test_all_processes_disturbed_is_no_evidence(fakes: ModuleType) -> None:
    cell = fakes.cell()
    lost = [fakes.trial(cell, [], status="invalid", reason=reasoned("disturbed"))]
    (found,) = paired_evidence([cell], lost, lost, ["latency_s"])
    assert found.spoiled is not None
    assert found.spoiled[0] == "disturbed"


def counters(found: Any) -> dict[str, tuple[float | None, float | None]]:
    return {counted.name: (counted.base, counted.head) for counted in found.counted}


def test_work_is_compared_on_equal_prompts_and_seeds(fakes: ModuleType) -> None:
    """The head took a third sample that the base did not: its forwards are in neither sum."""
    cell = fakes.cell()
    base, head = fakes.trial(cell, [0.1, 0.1]), fakes.trial(cell, [0.1, 0.1, 0.1])
    fewer = tuple(sample.model_copy(update={"nfe": 7}) for sample in head.samples)
    (found,) = paired_evidence([cell], [base], [head.model_copy(update={"samples": fewer})], ["latency_s"])
    assert counters(found)["nfe"] == (16.0, 14.0)
    assert counters(found)["output_tokens"] == (16.0, 16.0)


def test_stated_work_and_memory_are_medians_over_processes(fakes: ModuleType) -> None:
    cell = fakes.cell()
    base = [
        fakes.trial(cell, [0.1, 0.1], process=p, counters={"model_flops": 1e9, "memory_peak_b": 100 + p})
        for p in range(3)
    ]
    head = [trial.model_copy(update={"counters": {"model_flops": 2e9}}) for trial in base]
    (found,) = paired_evidence([cell], base, head, ["latency_s"])
    assert counters(found)["model_flops"] == (1e9, 2e9)
    assert counters(found)["memory_peak_b"] == (101.0, None)
    assert "model_bytes" not in counters(found)


def test_two_stored_runs_give_a_value_a_process(fakes: ModuleType) -> None:
    cell = fakes.cell()
    base = [fakes.trial(cell, [0.1 + 0.01 * p] * 3, process=p) for p in range(6)]
    head = [fakes.trial(cell, [0.2] * 3, process=p) for p in range(7)]
    (found,) = unpaired_evidence([cell], base, head, ["latency_s"])
    (timed,) = found.timed
    assert timed.log_ratios == ()
    assert timed.base_logs == pytest.approx([math.log(0.1 + 0.01 * p) for p in range(6)])
    assert timed.head_logs == pytest.approx([math.log(0.2)] * 7)


def test_the_machines_drift_is_taken_out_by_what_limits_a_cell(fakes: ModuleType) -> None:
    """At head products are twice as fast and reads half: a cell of products is held to the first, another to both."""
    busy, hungry = fakes.cell(), fakes.cell("masked-diffusion", 2)
    rates = [Calibration(matmul_flop_s=f, read_b_s=b, dtype="float32") for f, b in ((1e9, 4e9), (2e9, 2e9))]
    work = {busy.key: {"model_flops": 1e12, "model_bytes": 1.0}, hungry.key: {"model_flops": 1.0, "model_bytes": 1e12}}

    def side(rate: Calibration) -> list[Any]:
        both = {"calibration_before": rate, "calibration_after": rate}
        return [
            fakes.trial(c, [0.1] * 3, process=p, counters=work[c.key], **both) for c in (busy, hungry) for p in (0, 1)
        ]

    base, head = map(side, rates)
    assert drift(base, head) == {"matmul": 2.0, "read": 0.5}
    found = without_drift(unpaired_evidence([busy, hungry], base, head, ["latency_s"]), base, head)
    shifts = [each.timed[0].head_logs[0] - each.timed[0].base_logs[0] for each in found]
    # Equal times on a machine twice as fast are a slowdown to twice; on one half as fast, the reverse.
    assert shifts == pytest.approx([math.log(2), -math.log(2)])


def pair(rows: list[CertificateRow]) -> PairRecord:
    return PairRecord(
        name="p", description="", weights="random", weights_note="", ar={}, diffusion={}, certificate=tuple(rows)
    )


def row(quantity: str, ar: Any, diffusion: Any) -> CertificateRow:
    return CertificateRow(
        quantity=quantity, unit="1", ar=ar, diffusion=diffusion, difference_percent=None, verdict="equal"
    )


def test_a_certificate_is_evidence_that_has_no_time() -> None:
    base = pair([row("layers", 4, 4), row("mask", "causal", "full")])
    head = pair([row("layers", 4, 5), row("mask", "causal", "block")])
    (found,) = certificate_evidence([base], [head])
    assert found.timeless
    names = [(c.name, c.base, c.head) for c in found.counted]
    assert names == [
        ("layers (ar)", 4.0, 4.0), ("layers (diffusion)", 4.0, 5.0),
        ("mask (ar)", 0.0, 0.0), ("mask (diffusion): full became block", 0.0, 1.0),
    ]  # fmt: skip
