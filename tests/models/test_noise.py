"""Schedules against the references' values, their closed forms and each other; and what noise does to tokens."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.noise import (
    BLOCK_NOISE,
    SCHEDULES,
    BlockNoise,
    LogLinear,
    NoiseSchedule,
    block_noise,
    mask_tokens,
    noise_schedule,
    replace_tokens,
    time_grid,
)
from dlmbench.models.schedule import transfer_counts_by_time

GOLDEN = Path(__file__).parents[1] / "golden" / "noise_schedules"
RECORDED = load_file(GOLDEN / "schedules.safetensors")

# What the recorded names stand for.
RECORDED_SCHEDULES: dict[str, NoiseSchedule | BlockNoise] = {
    "mdlm.loglinear": noise_schedule("loglinear", epsilon=1e-3),
    "mdlm.geometric_1e-4_20": noise_schedule("geometric", sigma_min=1e-4, sigma_max=20),
    "mdlm.cosine": noise_schedule("cosine"),
    "mdlm.cosinesqr": noise_schedule("cosinesqr"),
    "mdlm.linear_1e-3_7.0": noise_schedule("linear", sigma_min=1e-3, sigma_max=7.0),
    "sedd.loglinear": noise_schedule("loglinear"),
    "sedd.geometric_1e-4_20": noise_schedule("geometric", sigma_min=1e-4, sigma_max=20),
    "sedd.geometric_1e-3_20": noise_schedule("geometric", sigma_min=1e-3, sigma_max=20),
    "bd3lm.loglinear": block_noise("loglinear"),
    "bd3lm.square": block_noise("square"),
    "bd3lm.square_root": block_noise("square_root"),
    "bd3lm.log": block_noise("log"),
    "bd3lm.cosine": block_noise("cosine"),
}
GRIDS: dict[str, Callable[[int], Tensor]] = {
    "grid.mdlm_sedd": lambda steps: time_grid(steps),
    "grid.dream_eps1e-3": lambda steps: time_grid(steps, 1e-3),
    "grid.bd3lm": lambda points: time_grid(points - 1, 0),
}


def times(least: float = 0.01, most: float = 0.99) -> Tensor:
    return torch.linspace(least, most, 50, dtype=torch.float64, requires_grad=True)


def slope(values: Tensor, t: Tensor) -> Tensor:
    """Derivative of each value by its own time."""
    return torch.autograd.grad(values.sum(), t)[0]


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-6, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", sorted(set(RECORDED) - {"t"}))
def test_values_are_the_references(name: str) -> None:
    place, _, quantity = name.rpartition(".")
    if place in GRIDS:
        close(GRIDS[place](int(quantity.removeprefix("steps"))), RECORDED[name])
        return
    value = getattr(RECORDED_SCHEDULES[place], quantity)
    if isinstance(value, float):
        assert value == RECORDED[name].item()
    elif quantity == "importance_sampling_t":
        # The reference's ends are float32, the lower one the small difference 1 - 0.999: only absolutely this close.
        close(value(RECORDED["t"]), RECORDED[name], atol=1e-6)
    else:
        close(value(RECORDED["t"]), RECORDED[name])


# What every schedule is -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_is_the_derivative_of_the_noise(name: str) -> None:
    schedule, t = noise_schedule(name), times()
    close(schedule.dsigma(t), slope(schedule.sigma(t), t), rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_move_chance_and_weight_follow_from_the_noise(name: str) -> None:
    schedule, t = noise_schedule(name), times()
    sigma = schedule.sigma(t)
    assert bool((sigma.diff() > 0).all())
    close(schedule.move_chance(t), 1 - torch.exp(-sigma), rtol=1e-9)
    close(schedule.nelbo_weight(t), schedule.dsigma(t) / (torch.exp(sigma) - 1), rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_those_of_the_times(name: str, dtype: torch.dtype) -> None:
    schedule, t = noise_schedule(name), torch.full((2, 3), 0.5, dtype=dtype)
    for value in (schedule.sigma(t), schedule.dsigma(t), schedule.move_chance(t), schedule.nelbo_weight(t)):
        assert (value.shape, value.dtype) == (t.shape, dtype)


# Each by itself -------------------------------------------------------------------------------------


def test_loglinear_by_hand() -> None:
    # At t = 1/2, epsilon = 1/5: move chance 0.8 / 2 = 0.4, sigma = -log 0.6, rate 0.8 / 0.6, weight 2.
    schedule, t = noise_schedule("loglinear", epsilon=0.2), torch.tensor(0.5, dtype=torch.float64)
    assert schedule.move_chance(t).item() == pytest.approx(0.4)
    assert schedule.sigma(t).item() == pytest.approx(-math.log(0.6))
    assert schedule.dsigma(t).item() == pytest.approx(4 / 3)
    assert schedule.nelbo_weight(t).item() == pytest.approx(2)


@pytest.mark.parametrize("epsilon", [1e-3, 0.3])
def test_weights_in_closed_form(epsilon: float) -> None:
    t = times()
    close(noise_schedule("loglinear", epsilon=epsilon).nelbo_weight(t), 1 / t)
    # (1 - cos a)' / (1 - cos a) = a' cot(a / 2), and (sin^2 a)' / sin^2 a = 2 a' cot a, at a = pi t / 2.
    close(noise_schedule("cosine", epsilon=epsilon).nelbo_weight(t), math.pi / 2 / torch.tan(math.pi * t / 4))
    close(noise_schedule("cosinesqr", epsilon=epsilon).nelbo_weight(t), math.pi / torch.tan(math.pi * t / 2))


def test_geometric_and_linear_by_hand() -> None:
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    geometric = noise_schedule("geometric", sigma_min=0.01, sigma_max=1)
    assert geometric.sigma(t).tolist() == pytest.approx([0.01, 0.1, 1])
    assert geometric.dsigma(t).tolist() == pytest.approx([0.01 * math.log(100), 0.1 * math.log(100), math.log(100)])
    linear = noise_schedule("linear", sigma_min=1, sigma_max=5)
    assert linear.sigma(t).tolist() == [1, 3, 5]
    assert linear.dsigma(t).tolist() == [4, 4, 4]


def test_small_noise_keeps_its_digits_in_float32() -> None:
    # 1 - cos(pi t / 2) is 1.2337e-8 at t = 1e-4: less than the spacing of float32 at 1.
    sigma = noise_schedule("cosine").sigma(torch.tensor(1e-4))
    assert sigma.item() == pytest.approx(0.999 * (math.pi * 1e-4 / 2) ** 2 / 2, rel=1e-5)


def test_importance_sampling_evens_out_the_weight() -> None:
    """A time drawn with density proportional to the weight: weight times dt/du is the same for every u."""
    schedule, u = LogLinear(), times(0, 1)
    t = schedule.importance_sampling_t(u)
    share = (schedule.nelbo_weight(t) * slope(t, u)).detach()
    close(share, share[:1].expand_as(share), rtol=1e-9)
    ends = schedule.sigma(t.detach()[[0, -1]]).tolist()
    assert ends == pytest.approx([schedule.sigma_min, schedule.sigma_max])
    assert schedule.sigma_max == pytest.approx(math.log(1000), rel=1e-5)


@pytest.mark.parametrize("name", ["loglinear", "square", "square_root", "log"])
def test_block_scaling_is_the_derivative_of_the_log_chance(name: str) -> None:
    noise, t = block_noise(name), times(least=0.05)  # from there on, a square is above 0.001
    close(noise.loss_scaling(t), -slope(noise.move_chance(t).log(), t), rtol=1e-9)


@pytest.mark.parametrize("name", BLOCK_NOISE)
def test_block_weight_is_the_scaling_without_its_sign(name: str) -> None:
    noise, t = block_noise(name), times()
    assert bool((noise.nelbo_weight(t) > 0).all())
    assert torch.equal(noise.nelbo_weight(t), -noise.loss_scaling(t))
    assert noise.move_chance(torch.tensor(1.0)).item() == pytest.approx(1)


def test_block_loglinear_by_hand() -> None:
    t = torch.tensor([0.25, 0.5, 1.0])
    assert block_noise("loglinear").loss_scaling(t).tolist() == [-4, -2, -1]
    assert block_noise("loglinear").move_chance(t).tolist() == [0.25, 0.5, 1]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sigmoid", {}, r"'sigmoid' is not known; choose one of loglinear, geometric, cosine, cosinesqr, linear"),
        ("geometric", {"epsilon": 0.1}, r"geometric: no parameter 'epsilon'; it has sigma_min, sigma_max"),
        ("loglinear", {"sigma_max": 20}, r"loglinear: no parameter 'sigma_max'; it has epsilon"),
        ("cosine", {"epsilon": 0}, r"epsilon 0 is outside \(0, 1\)"),
        ("cosine", {"epsilon": math.nan}, r"epsilon nan is outside"),
        ("geometric", {"sigma_min": 0}, r"sigma_min 0 .*choose 0 < sigma_min < sigma_max"),
        ("geometric", {"sigma_min": 3, "sigma_max": 2}, r"sigma_min 3 and sigma_max 2 do not fit"),
        ("linear", {"sigma_max": math.inf}, r"sigma_max inf do not fit; choose 0 <= sigma_min < sigma_max"),
    ],
)
def test_what_is_no_schedule_is_refused(name: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        noise_schedule(name, **parameters)


def test_an_unknown_block_schedule_is_refused() -> None:
    with pytest.raises(InputError, match=r"'cubic' is not known; choose one of loglinear, square"):
        block_noise("cubic")


# Time ------------------------------------------------------------------------------------------------


def test_grid_by_hand() -> None:
    assert time_grid(4, 0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert time_grid(4, 0).dtype is torch.float32
    with pytest.raises(InputError, match=r"T=0 leaves no step; choose T >= 1"):
        time_grid(0)


def test_counts_by_time_are_dreams() -> None:
    cases = json.loads((GOLDEN / "transfer_counts.json").read_text())["dream_transfer_counts"]
    assert len(cases) > 10
    for case in cases:
        assert transfer_counts_by_time(case["masks"], case["steps"], case["eps"]) == case["counts"]


def test_counts_by_time_by_hand() -> None:
    # Times 1, 0.667, 0.334, 0.001: int(8 / 3) = 2, int(6 (1 - 0.334 / 0.667)) = int(2.996) = 2, and the rest.
    assert transfer_counts_by_time(8, 3) == [2, 2, 4]
    assert transfer_counts_by_time(5, 1) == [5]


@given(masks=st.integers(0, 300), steps=st.integers(1, 300))
def test_counts_by_time_take_every_mask_once(masks: int, steps: int) -> None:
    counts = transfer_counts_by_time(masks, steps)
    assert len(counts) == steps
    assert sum(counts) == masks
    assert min(counts) >= 0


# Tokens ----------------------------------------------------------------------------------------------

TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
UNIFORMS = torch.tensor([[0.0, 0.5, 0.9], [0.0, 0.5, 0.9]])


def test_tokens_below_the_chance_are_masked() -> None:
    assert mask_tokens(TOKENS, torch.tensor([0.5, 0.6]), UNIFORMS, 9).tolist() == [[9, 2, 3], [9, 9, 6]]
    assert mask_tokens(TOKENS, torch.tensor(0.6), UNIFORMS, 9).tolist() == [[9, 9, 3], [9, 9, 6]]
    assert torch.equal(mask_tokens(TOKENS, torch.zeros(2), UNIFORMS, 9), TOKENS)
    assert bool((mask_tokens(TOKENS, torch.ones(2), UNIFORMS, 9) == 9).all())


def test_every_token_may_have_its_own_chance() -> None:
    chance = torch.tensor([[0.0, 0.6, 1.0], [0.1, 0.5, 0.5]])
    assert mask_tokens(TOKENS, chance, UNIFORMS, 9).tolist() == [[1, 9, 9], [9, 5, 6]]


def test_tokens_below_the_chance_are_replaced() -> None:
    replacements = torch.tensor([[7, 7, 7], [8, 5, 8]])
    noisy = replace_tokens(TOKENS, torch.tensor([0.5, 0.6]), UNIFORMS, replacements)
    assert noisy.tolist() == [[7, 2, 3], [8, 5, 6]]


def test_noise_has_the_chance_asked_for() -> None:
    """Uniforms that are evenly spaced hit exactly their share."""
    uniforms = (torch.arange(1000) / 1000)[None]
    noisy = mask_tokens(torch.zeros(1, 1000, dtype=torch.long), torch.tensor([0.25]), uniforms, 1)
    assert noisy.sum().item() == 250
