"""Measurements from trials made by hand; every expected number is worked out beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench.summary import measurements
from dlmbench.profiles.metrics import declared
from dlmbench.profiles.record import Calibration, Measurement, Reason, Trial, Value


@pytest.fixture
def one(fakes: ModuleType) -> Any:
    """`one(trials)` is the measurement of their only cell."""

    def measure(trials: Sequence[Trial]) -> Measurement:
        (found,) = measurements(trials)
        return found

    return measure


def metric(trials: Sequence[Trial], key: str, name: str) -> Value:
    return {m.key: m for m in measurements(trials)}[key].metrics[name]


def test_the_median_of_a_process_then_the_geometric_mean_over_processes(fakes: ModuleType, one: Any) -> None:
    ar = fakes.cell()
    # Medians 1, 2 and 4: geometric mean 2, range [1, 4], no level below five processes.
    found = one([fakes.trial(ar, v, p) for p, v in enumerate([(0.5, 1, 9), (2, 2, 2), (3, 4, 5)])])
    latency = found.metrics["latency_s"]
    assert latency.value == pytest.approx(2.0)
    assert (latency.low, latency.high, latency.n, latency.level) == (1.0, 4.0, 3, None)
    # L = 8 and batch 1: 8 / 1, 8 / 2, 8 / 4 tok/s, geometric mean 4.
    assert found.metrics["throughput_tok_s"].value == pytest.approx(4.0)


def test_five_processes_carry_a_level(fakes: ModuleType, one: Any) -> None:
    found = one([fakes.trial(fakes.cell(), [v], p) for p, v in enumerate((1.0, 1.1, 0.9, 1.05, 0.95))])
    assert found.metrics["latency_s"].level == 0.95
    assert found.metrics["latency_s"].n == 5


def test_one_process_has_an_interval_but_no_level(fakes: ModuleType, one: Any) -> None:
    latency = one([fakes.trial(fakes.cell(), [1.0, 1.1, 0.9, 1.0])]).metrics["latency_s"]
    assert latency.level is None
    assert latency.low < latency.value < latency.high


def test_rates_by_hand(fakes: ModuleType, one: Any) -> None:
    # Batch 2, L 8, latency 1 s, first token after 0.3 s, 8 forwards.
    m = one([fakes.trial(fakes.cell(batch=2), [1.0])]).metrics
    assert m["output_tokens"].value == 16
    assert m["throughput_tok_s"].value == pytest.approx(16.0)
    assert m["tok_s_user"].value == pytest.approx(8.0)
    assert m["e2e_per_token_s"].value == pytest.approx(1 / 8)
    assert m["tpot_s"].value == pytest.approx((1.0 - 0.3) / (8 - 1))
    assert m["tokens_per_forward"].value == pytest.approx(8 / 8)
    assert m["ttft_s"].value == pytest.approx(0.3)
    parts = [m[name].value for name in ("prefill_s", "forward_s", "sampling_s", "idle_s")]
    assert parts == pytest.approx([0.1, 0.5, 0.2, 0.2])
    assert sum(parts) == pytest.approx(m["latency_s"].value)


def test_rows_that_end_early_count_as_they_ended(fakes: ModuleType, one: Any) -> None:
    # Rows of 2, 4 and 8 tokens: 14 tokens, 4 a row in the median; the canvas stays 24.
    cell = fakes.cell(batch=3, length_policy="natural")
    short = fakes.sample(cell, 2.0, output_tokens=14, rows_tokens=(2, 4, 8), canvas_tokens=24)
    m = one([fakes.trial(cell, samples=(short,))]).metrics
    assert m["throughput_tok_s"].value == pytest.approx(7.0)
    assert m["e2e_per_token_s"].value == pytest.approx(0.5)
    assert m["tpot_s"].value == pytest.approx((2.0 - 0.6) / 3)
    assert m["canvas_tokens"].value == 24


def test_what_a_side_does_not_have_is_null_with_a_reason(fakes: ModuleType, one: Any) -> None:
    m = one([fakes.trial(fakes.cell("d", 4), [1.0, 1.0])]).metrics
    for name in ("itl_s", "itl_p99_s", "block_latency_s", "model_flops", "mfu", "roofline_fraction", "memory_peak_b"):
        assert m[name].value is None
        assert m[name].why


def test_one_token_has_no_tpot(fakes: ModuleType, one: Any) -> None:
    cell = fakes.cell(length=1)
    assert one([fakes.trial(cell, [1.0])]).metrics["tpot_s"].value is None


def test_every_metric_is_declared(fakes: ModuleType, one: Any) -> None:
    trials = [fakes.trial(fakes.cell(), [1.0]), fakes.trial(fakes.cell("d", 4), [1.0])]
    for m in measurements(trials):
        for name in m.metrics:
            assert declared(name).name == name.partition("[")[0]


def test_discarded_samples_do_not_count(fakes: ModuleType, one: Any) -> None:
    cell = fakes.cell()
    good, bad = fakes.sample(cell, 1.0), fakes.sample(cell, 100.0, 1, discarded="disturbed")
    assert one([fakes.trial(cell, samples=(good, bad))]).metrics["latency_s"].value == 1.0


# Counters


def test_counters_by_hand(fakes: ModuleType, one: Any) -> None:
    """2e9 FLOP and 1e8 B in 0.5 s beside peaks of 8e9 FLOP/s and 1e9 B/s, floor 0.25 s; 24 events of 1 ms."""
    low = Calibration(matmul_flop_s=4e9, read_b_s=1e9, dtype="float32")
    high = Calibration(matmul_flop_s=8e9, read_b_s=5e8, dtype="float32")
    counters = {
        "model_flops": 2e9,
        "model_bytes": 1e8,
        "floor_s": 0.25,
        "memory_peak_b": 7,
        "observer_unit_cost_s": 1e-3,
    }
    m = one(
        [fakes.trial(fakes.cell(), [0.5], counters=counters, calibration_before=low, calibration_after=high)]
    ).metrics
    assert m["arithmetic_intensity"].value == pytest.approx(20.0)
    assert m["mfu"].value == pytest.approx(2e9 / 0.5 / 8e9)
    assert m["mbu"].value == pytest.approx(1e8 / 0.5 / 1e9)
    assert m["roofline_fraction"].value == pytest.approx(0.5)
    assert m["observer_share"].value == pytest.approx(24 * 1e-3 / 0.5)
    assert (m["memory_peak_b"].value, m["prepare_s"].value) == (7.0, 0.5)


def test_outliers_are_kept_and_counted_and_what_was_discarded_too(fakes: ModuleType, one: Any) -> None:
    """Of 10 values between 1.0 and 1.9 the quartiles are 1.225 and 1.675: the fences lie at -0.125 and 3.025."""
    cell = fakes.cell()
    kept = [fakes.sample(cell, latency, number) for number, latency in enumerate([1 + 0.1 * i for i in range(9)] + [4])]
    lost = fakes.sample(cell, 1.0, 10, discarded="disturbed")
    m = one([fakes.trial(cell, samples=(*kept, lost))]).metrics
    assert m["outlier_share"].value == pytest.approx(0.1)
    assert m["discarded_share"].value == pytest.approx(1 / 11)
    assert m["latency_s"].value == pytest.approx(1.45)
    few = one([fakes.trial(cell, samples=tuple(kept[:7]))]).metrics["outlier_share"]
    assert (few.value, few.why) == (None, "fewer than eight samples a process")


def test_without_a_calibration_nothing_is_divided_by_a_guess(fakes: ModuleType, one: Any) -> None:
    counters = {"model_flops": 2e9, "model_bytes": 1e8, "floor_s": 0.25}
    m = one(
        [fakes.trial(fakes.cell(), [0.5], counters=counters, calibration_before=None, calibration_after=None)]
    ).metrics
    assert (m["mfu"].value, m["mbu"].value, m["roofline_fraction"].value) == (None, None, None)
    assert m["model_flops"].value == 2e9


def test_the_curve_has_the_points_that_every_sample_reached(fakes: ModuleType, one: Any) -> None:
    cell = fakes.cell()
    first = fakes.sample(cell, 1.0, time_to_k_s={"1": 0.1, "2": 0.2, "8": 1.0})
    second = fakes.sample(cell, 1.0, 1, time_to_k_s={"1": 0.3, "2": 0.4})
    m = one([fakes.trial(cell, samples=(first, second))]).metrics
    assert [name for name in m if name.startswith("time_to_k_s")] == ["time_to_k_s[1]", "time_to_k_s[2]"]
    assert m["time_to_k_s[2]"].value == pytest.approx(0.3)


# Status


def test_a_cell_that_failed_everywhere_keeps_its_reason(fakes: ModuleType, one: Any) -> None:
    why = Reason(code="out_of_memory", message="too much")
    found = one([fakes.trial(fakes.cell(), process=p, status="failed", reason=why) for p in range(3)])
    assert (found.status, found.reason, found.metrics) == ("failed", why, {})


@pytest.mark.parametrize("status", ["invalid", "skipped"])
def test_invalid_and_skipped_stay_what_they_are(fakes: ModuleType, one: Any, status: str) -> None:
    why = Reason(code="x", message="y")
    assert one([fakes.trial(fakes.cell(), status=status, reason=why)]).status == status


def test_a_cell_that_failed_in_one_process_says_so(fakes: ModuleType, one: Any) -> None:
    why = Reason(code="crash", message="boom")
    found = one([fakes.trial(fakes.cell(), [1.0]), fakes.trial(fakes.cell(), [9.0], 1, status="failed", reason=why)])
    assert (found.status, found.reason.code) == ("ok", "partly_failed")
    assert found.reason.message == "1 of 2 processes gave nothing: boom"
    assert (found.metrics["latency_s"].value, found.metrics["latency_s"].n) == (1.0, 1)


def test_no_sample_that_counts_is_no_measurement(fakes: ModuleType, one: Any) -> None:
    cell = fakes.cell()
    spoiled = fakes.sample(cell, 1.0, discarded="disturbed")
    found = one([fakes.trial(cell, samples=(spoiled,))])
    assert (found.status, found.reason.code) == ("failed", "no_samples")


def test_no_trials_no_measurements() -> None:
    assert measurements([]) == []


# Speed-up


def test_a_drift_of_the_machine_cancels_round_by_round(fakes: ModuleType) -> None:
    """Diffusion takes half of AR's time in every round while the machine slows down 100-fold.

    Diffusion stopped after three rounds. The ratio of medians would be 4 / 1 = 4; each round says 2.
    """
    ar, diffusion = fakes.cell(), fakes.cell("d", 4)
    slowing = [1.0, 2.0, 4.0, 16.0, 100.0]
    trials = [fakes.trial(ar, slowing), fakes.trial(diffusion, [t / 2 for t in slowing[:3]])]
    assert metric(trials, diffusion.key, "speedup").value == pytest.approx(2.0)


def test_rounds_without_a_counted_ar_sample_are_passed_over(fakes: ModuleType) -> None:
    ar, diffusion = fakes.cell(), fakes.cell("d", 4)
    base = (fakes.sample(ar, 1.0, 0), fakes.sample(ar, 50.0, 1, discarded="disturbed"), fakes.sample(ar, 1.0, 2))
    trials = [fakes.trial(ar, samples=base), fakes.trial(diffusion, [0.5, 0.001, 0.5])]
    assert metric(trials, diffusion.key, "speedup").value == pytest.approx(2.0)


def test_speedup_over_processes_is_the_mean_log_ratio(fakes: ModuleType) -> None:
    """Ratios 1, 2, 4, 8, 16: geometric mean 4; logs step by ln 2, s = ln 2 x sqrt(2.5), t(0.975; 4) = 2.776445."""
    ar, diffusion = fakes.cell(), fakes.cell("d", 4)
    trials = [t for p in range(5) for t in (fakes.trial(ar, [1.0], p), fakes.trial(diffusion, [2.0**-p], p))]
    value = metric(trials, diffusion.key, "speedup")
    half = 2.776445 * math.log(2) * math.sqrt(2.5) / math.sqrt(5)
    assert value.value == pytest.approx(4.0)
    assert value.low == pytest.approx(4 * math.exp(-half), rel=1e-5)
    assert value.level == 0.95


def test_only_processes_of_the_same_pairing_are_divided(fakes: ModuleType) -> None:
    ar, diffusion = fakes.cell(), fakes.cell("d", 4)
    trials = [fakes.trial(ar, [1.0], 0), fakes.trial(diffusion, [0.5], 1)]
    value = metric(trials, diffusion.key, "speedup")
    assert (value.value, value.why) == (None, "the two cells share no round")


def test_the_reference_is_the_fastest_ar_that_is_ok(fakes: ModuleType) -> None:
    slow, fast, broken = fakes.cell(), fakes.cell(engine="compile"), fakes.cell("hf")
    diffusion = fakes.cell("d", 4)
    why = Reason(code="crash", message="boom")
    trials = [
        fakes.trial(slow, [4.0]),
        fakes.trial(fast, [2.0]),
        fakes.trial(broken, [0.1], status="invalid", reason=why),
        fakes.trial(diffusion, [1.0]),
    ]
    assert metric(trials, diffusion.key, "speedup").value == pytest.approx(2.0)
    assert metric(trials, fast.key, "speedup").value == 1.0
    assert metric(trials, slow.key, "speedup").value == pytest.approx(0.5)


@pytest.mark.parametrize(
    "other", [{"length": 16}, {"batch": 2}, {"prompt_length": 0}, {"dtype": "bfloat16"}, {"length_policy": "natural"}]
)
def test_cells_of_another_shape_are_no_reference(fakes: ModuleType, other: dict[str, Any]) -> None:
    diffusion = fakes.cell("d", 4)
    value = metric([fakes.trial(fakes.cell(**other), [1.0]), fakes.trial(diffusion, [1.0])], diffusion.key, "speedup")
    assert (value.value, value.why) == (None, "no AR cell of this shape was measured")


# Crossovers


def shape(fakes: ModuleType, times: dict[int, float], ar_s: float = 1.0, **fields: Any) -> list[Trial]:
    """One AR cell and a diffusion cell a T, with these latencies, in five equal processes."""
    cells = [(fakes.cell(**fields), ar_s)] + [(fakes.cell("d", t, **fields), s) for t, s in times.items()]
    return [fakes.trial(cell, [s, s, s], p) for p in range(5) for cell, s in cells]


def test_crossover_steps_by_hand(fakes: ModuleType) -> None:
    # Speed-ups 2 at T = 2 and 1/2 at T = 8: half-way in logs, T* = 4.
    value = metric(shape(fakes, {2: 0.5, 8: 2.0}), fakes.cell().key, "crossover_steps")
    assert value.value == pytest.approx(4.0)
    assert (value.low, value.high) == (pytest.approx(4.0), pytest.approx(4.0))
    assert value.level == 0.95


def test_crossover_steps_all_and_none(fakes: ModuleType) -> None:
    key = fakes.cell().key
    always, never = shape(fakes, {2: 0.5, 8: 0.9}), shape(fakes, {2: 1.5, 8: 3.0})
    assert metric(always, key, "crossover_steps").value is None
    assert (metric(always, key, "crossover_steps").why or "").startswith("all: diffusion is faster")
    assert (metric(never, key, "crossover_steps").why or "").startswith("none: AR is faster")


def test_one_point_makes_no_crossover(fakes: ModuleType) -> None:
    value = metric(shape(fakes, {4: 0.5}), fakes.cell().key, "crossover_steps")
    assert (value.value, value.why) == (None, "needs two or more points along the axis")


def test_the_natural_policy_has_no_crossover(fakes: ModuleType) -> None:
    trials = shape(fakes, {2: 0.5, 8: 2.0}, length_policy="natural")
    for m in measurements(trials):
        assert "crossover_steps" not in m.metrics
        assert "crossover_batch" not in m.metrics


def test_the_fastest_cell_counts_at_each_number_of_steps(fakes: ModuleType) -> None:
    # At T = 8 a second remasking takes 2 s where the first takes 50 s: T* = 4 as if the first were not there.
    slow = fakes.cell("d", 8, block_length=4)
    trials = [*shape(fakes, {2: 0.5, 8: 2.0}), *(fakes.trial(slow, [50.0] * 3, p) for p in range(5))]
    assert metric(trials, fakes.cell().key, "crossover_steps").value == pytest.approx(4.0)


def test_the_interval_of_a_crossover_is_where_the_bounds_cross(fakes: ModuleType) -> None:
    """Per-process speed-ups 2^(1 ± d) at T = 2 and 2^(-1 ± d) at T = 8 shift the whole line up and down."""
    ar = fakes.cell()
    trials = []
    for p, d in enumerate((-0.2, -0.1, 0.0, 0.1, 0.2)):
        trials.append(fakes.trial(ar, [1.0], p))
        trials.append(fakes.trial(fakes.cell("d", 2), [2 ** -(1 + d)], p))
        trials.append(fakes.trial(fakes.cell("d", 8), [2 ** -(-1 + d)], p))
    # s = 0.1 x sqrt(2.5) = .158114 in log2, half = 2.776445 x .158114 / sqrt(5) = .196325. The line in (log2 T, log2
    # speed-up) falls by 2 over 2, so that a shift of h moves its zero by h: T* = 2^(2 ± .196325).
    value = metric(trials, ar.key, "crossover_steps")
    assert value.value == pytest.approx(4.0)
    assert value.low == pytest.approx(2 ** (2 - 0.196325), rel=1e-5)
    assert value.high == pytest.approx(2 ** (2 + 0.196325), rel=1e-5)


def test_crossover_batch_by_hand(fakes: ModuleType) -> None:
    # T = 4: speed-up 2 at batch 1 and 1/2 at batch 4, so 1 at batch 2; kept with the smallest batch.
    trials = [*shape(fakes, {4: 0.5}), *(t for t in shape(fakes, {4: 2.0}, batch=4))]
    assert metric(trials, fakes.cell("d", 4).key, "crossover_batch").value == pytest.approx(2.0)
    found = {m.key: m for m in measurements(trials)}
    assert "crossover_batch" not in found[fakes.cell("d", 4, batch=4).key].metrics
