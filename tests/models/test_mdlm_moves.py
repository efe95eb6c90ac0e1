"""When positions leave the mask: weights by hand, one law for three samplers, and how often the network has to run."""

import math

import pytest
import torch

from dlmbench import InputError
from dlmbench.models.mdlm_moves import SAMPLERS, Evaluation, check_sampler, evaluations, leaving_steps, moves
from dlmbench.models.noise import LogLinear, noise_schedule

LOGLINEAR = LogLinear()


def counts_of(steps: int, positions: int, random: torch.Generator) -> list[int]:
    """Positions leaving at each step of one run, and those left to the end."""
    uniforms = torch.rand(positions, dtype=torch.float64, generator=random)
    leaving = leaving_steps(moves("ddpm_cache", LOGLINEAR, steps), uniforms)
    return torch.bincount(leaving, minlength=steps + 1).tolist()


def test_weights_by_hand() -> None:
    # Grid 1, 0.75, 0.5, 0.25, 0 but for epsilon.
    cached = moves("ddpm_cache", LOGLINEAR, 4)
    assert cached.leave == pytest.approx([0.25] * 4, abs=1e-5)
    assert cached.stay == pytest.approx([0.75, 0.5, 0.25, 0.0], abs=2e-5)
    # ddpm: the same times 0.999, the loglinear schedule's move chance at time 1.
    ddpm = moves("ddpm", LOGLINEAR, 4)
    assert ddpm.leave == pytest.approx([0.999 * 0.25] * 4, abs=1e-5)
    assert ddpm.sigmas[0].item() == pytest.approx(math.log(1000), abs=1e-3)
    assert ddpm.sigmas.shape == (5,)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_samplers_leave_by_the_same_law(sampler: str) -> None:
    """With loglinear noise a mask at time t stays until s with probability s / t."""
    odds = moves(sampler, LOGLINEAR, 10)
    grid = torch.linspace(1, 1e-5, 11, dtype=torch.float64)
    share = [stay / (leave + stay) for leave, stay in zip(odds.leave, odds.stay, strict=True)]
    assert share == pytest.approx((grid[1:] / grid[:-1]).tolist(), rel=1e-3)


@pytest.mark.parametrize("name", ["cosine", "geometric"])
def test_other_noise_leaves_by_its_move_chance(name: str) -> None:
    """What is masked at the end is m(epsilon) / m(1) of it, whatever lies between."""
    noise = noise_schedule(name)
    for sampler in ("ddpm", "analytic"):
        odds = moves(sampler, noise, 16)
        left = math.prod(stay / (leave + stay) for leave, stay in zip(odds.leave, odds.stay, strict=True))
        ends = noise.move_chance(torch.tensor([1e-5, 1.0], dtype=torch.float64))
        assert left == pytest.approx((ends[0] / ends[1]).item(), rel=2e-2, abs=1e-6)


def test_one_uniform_finds_the_step() -> None:
    odds = moves("ddpm_cache", LOGLINEAR, 4)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.6, 0.99, 1 - 1e-6], dtype=torch.float64)
    # The last lies in the share epsilon that the grid leaves masked.
    assert leaving_steps(odds, uniforms).tolist() == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_takes_its_share(sampler: str) -> None:
    """Evenly spaced uniforms: each of T steps gets (1 - epsilon) / T of them."""
    places = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    shares = torch.bincount(leaving_steps(moves(sampler, LOGLINEAR, 8), places), minlength=9)
    assert shares[:8].tolist() == pytest.approx([12_500] * 8, abs=5)
    assert shares[8].item() == pytest.approx(1, abs=1)


def test_evaluations_by_hand() -> None:
    # Two positions leave at step 1, one at step 3; three are left to the end.
    counts = [0, 2, 0, 1, 3]
    assert evaluations(counts, every=False, idle=False) == [Evaluation(1, 1, 0, 2), Evaluation(3, 3, 2, 1)]
    # The published cache runs before step 0, and anew after step 1 has changed something.
    assert evaluations(counts, every=False, idle=True) == [Evaluation(0, 1, 0, 2), Evaluation(2, 3, 2, 1)]
    assert evaluations(counts, every=True, idle=False) == [
        Evaluation(0, 0, 0, 0), Evaluation(1, 1, 0, 2), Evaluation(2, 2, 2, 0), Evaluation(3, 3, 2, 1)
    ]  # fmt: skip
    # Nothing leaves after step 0, but the published cache cannot know.
    assert evaluations([1, 0, 0, 0], every=False, idle=True) == [Evaluation(0, 0, 0, 1), Evaluation(1, 2, 1, 0)]
    assert evaluations([1, 0, 0, 0], every=False, idle=False) == [Evaluation(0, 0, 0, 1)]


def test_idle_evaluations_are_those_of_the_published_cache() -> None:
    """Its rule, step by step: run if there is no output in store; drop it when something changes."""
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        counts = counts_of(12, 5, random)
        expected, stored = [], False
        for step in range(12):
            if not stored:
                expected.append(step)
            stored = counts[step] == 0
        runs = evaluations(counts, every=False, idle=True)
        assert [run.step for run in runs] == expected
        # Every group is drawn once, from the last evaluation before it leaves.
        assert sum(run.count for run in runs) == sum(counts[:12])


@pytest.mark.parametrize(("steps", "positions"), [(64, 40), (16, 64), (200, 3)])
def test_forwards_of_the_cache_in_closed_form(steps: int, positions: int) -> None:
    """E[NFE] = T (1 - (1 - 1/T)^n) + 1 with the last forward; the published, less thrifty cache: (1 - 1/T)^n more."""
    random = torch.Generator().manual_seed(1)
    runs = [counts_of(steps, positions, random) for _ in range(2000)]
    quiet = (1 - 1 / steps) ** positions
    for idle, expected in ((False, steps * (1 - quiet) + 1), (True, steps * (1 - quiet) + 1 + quiet)):
        nfe = torch.tensor([len(evaluations(counts, every=False, idle=idle)) + 1.0 for counts in runs])
        error = (nfe.std() / math.sqrt(len(runs))).item()
        assert abs(nfe.mean().item() - expected) < 4 * error


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"'euler'.*ddpm_cache, ddpm, analytic"):
        check_sampler("euler", LOGLINEAR)
    with pytest.raises(InputError, match=r"ddpm_cache.*loglinear.*cosine; choose ddpm"):
        check_sampler("ddpm_cache", noise_schedule("cosine"))
    with pytest.raises(InputError, match=r"epsilon 1.*below 1"):
        moves("ddpm", LOGLINEAR, 4, 1.0)
