"""The acceptance rule: facts by hand, and its law by enumeration of where a uniform falls."""

import itertools
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench.models.draws import inverse_cdf
from dlmbench.models.generator import Settings
from dlmbench.models.rejection import accepted_drafts, agreeing_drafts, distribution, residual
from dlmbench.models.sampling import choose


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None]


def test_a_draft_is_kept_with_probability_p_over_q() -> None:
    """p = 0.2, q = 0.5: kept below a uniform of 0.4, refused from there on; p >= q is always kept."""
    p, q = rows([0.2, 0.8], [0.2, 0.8], [0.2, 0.8]), rows([0.5, 0.5], [0.5, 0.5], [0.5, 0.5])
    uniforms = torch.tensor([[0.399], [0.401], [0.999999]], dtype=torch.float64)
    assert accepted_drafts(p, q, torch.tensor([[0], [0], [1]]), uniforms).tolist() == [1, 0, 1]


def test_what_the_target_never_says_is_refused_even_at_a_uniform_of_zero() -> None:
    p, q = rows([0.0, 1.0]), rows([1.0, 0.0])
    assert accepted_drafts(p, q, torch.tensor([[0]]), torch.zeros(1, 1, dtype=torch.float64)).tolist() == [0]


def test_only_drafts_before_the_first_refusal_stay() -> None:
    draft = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 7], [5, 6, 7]])
    best = torch.tensor([[5, 6, 7], [5, 0, 7], [0, 6, 7], [5, 6, 0]])
    assert agreeing_drafts(best, draft).tolist() == [3, 1, 0, 2]
    for kept in itertools.product([True, False], repeat=3):
        p = torch.tensor([[[1.0, 0.0] if one else [0.0, 1.0] for one in kept]])
        q = torch.tensor([[[1.0, 0.0]] * 3])
        uniforms = torch.full((1, 3), 0.5, dtype=torch.float64)
        leading = [*kept, False].index(False)
        assert accepted_drafts(p, q, torch.zeros(1, 3, dtype=torch.int64), uniforms).tolist() == [leading]


def test_the_residual_by_hand() -> None:
    """p = (.5, .3, .2), q = (.2, .6, .2): (p - q)+ = (.3, 0, 0); after all acceptances the extra position's p."""
    p = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]).expand(2, -1, -1)
    q = torch.tensor([[[0.2, 0.6, 0.2]]]).expand(2, -1, -1)
    found = residual(p, q, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.0, 0.0], [0.1, 0.1, 0.8]]))


def test_a_refusal_by_rounding_alone_draws_from_p() -> None:
    p = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    assert torch.equal(residual(p, p[:, :1], torch.tensor([0])), p[:, 0])


@pytest.mark.parametrize("seed", range(5))
def test_the_law_of_one_position_is_the_targets(seed: int) -> None:
    """min(p, q) + (refused mass) x residual = p, with each part taken from the functions themselves."""
    random = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(7, generator=random).mul(2).softmax(0) for _ in range(2))
    p[3], q[5] = 0.0, 0.0
    p, q = p / p.sum(), q / q.sum()
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    kept = torch.zeros(7, dtype=torch.float64)
    for token in range(7):
        if q[token] == 0:
            continue
        many = torch.full((len(grid), 1), token)
        shape = (len(grid), 1, 7)
        kept[token] = accepted_drafts(p.expand(shape), q.expand(shape), many, grid[:, None]).double().mean() * q[token]
    left = residual(torch.stack((p, p))[None], q[None, None], torch.tensor([0]))[0].double()
    law = kept + (1 - kept.sum()) * left / left.sum()
    torch.testing.assert_close(law, p.double(), atol=2e-4, rtol=0)


def test_three_positions_drawn_and_tested_have_the_targets_law() -> None:
    """A target of conditionals p(x_i | x_{i-1}) against a proposal of another Markov chain; chi-square over 4^3."""
    count, random = 40_000, torch.Generator().manual_seed(3)
    p, q = (torch.randn(4, 4, generator=random).mul(1.5).softmax(1) for _ in range(2))

    def uniforms(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=random)

    ids = [torch.zeros(count, dtype=torch.int64)]
    for _ in range(3):
        ids.append(inverse_cdf(q[ids[-1]], uniforms(count)))
    draft = torch.stack(ids[1:], dim=1)
    before = torch.stack(ids, dim=1)
    accepted = accepted_drafts(p[before[:, :3]], q[before[:, :3]], draft, uniforms(count, 3))
    last = inverse_cdf(residual(p[before], q[before[:, :3]], accepted), uniforms(count))
    tokens = torch.cat((draft, draft[:, :1]), dim=1).scatter(1, accepted[:, None], last[:, None])
    for position in range(1, 4):  # what a later round would draw
        late = accepted + 1 <= position
        tokens[late, position] = inverse_cdf(p[tokens[late, position - 1]], uniforms(int(late.sum())))
    expected = p[0][:, None, None] * p[:, :, None] * p[None]
    found = torch.bincount((tokens[:, :3] * torch.tensor([16, 4, 1])).sum(1), minlength=64)
    assert stats.chisquare(found.numpy(), (expected.flatten().double() * count).numpy(), sum_check=False).pvalue > 1e-3
    assert 0.2 < accepted.double().mean() / 3 < 0.9


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1.0}, {"temperature": 0.5, "top_k": 3}, {"temperature": 2.0, "top_p": 0.7},
     {"temperature": 1.3, "top_k": 4, "top_p": 0.6}],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_distribution_is_the_one_that_choose_draws_from(settings: dict[str, Any], dtype: torch.dtype) -> None:
    logits = torch.randn(9, generator=torch.Generator().manual_seed(1)).mul(2).to(dtype)
    probabilities = distribution(logits[None], Settings(**settings))[0]
    assert probabilities.dtype is torch.float32
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0))
    count = 30_000
    ids, _ = choose(logits.expand(count, 9).clone(), Settings(**settings), torch.Generator().manual_seed(2))
    found, open_ids = torch.bincount(ids, minlength=9), probabilities > 0
    assert not found[~open_ids].any()
    if open_ids.sum() > 1:
        expected = probabilities[open_ids].double() * count
        assert stats.chisquare(found[open_ids].numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3
