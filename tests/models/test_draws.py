"""Drawing positions without replacement: the law of the draws one after the other."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from dlmbench.models.draws import Draws, RaceDraws, make_draws, race


@pytest.mark.parametrize("kind", ["exact", "gumbel64", "gumbel32"])
def test_positions_are_drawn_one_after_the_other_in_proportion(kind: str) -> None:
    weights = [5.0, 1.0, 3.0]
    draws: Draws = make_draws(kind, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    found = Counter(map(tuple, draws.positions(torch.tensor([weights]).expand(6000, -1), 2).tolist()))
    total = sum(weights)
    pairs = list(itertools.permutations(range(3), 2))
    # first i, then j of what is left
    expected = [6000 * weights[i] / total * weights[j] / (total - weights[i]) for i, j in pairs]
    assert sum(found.values()) == sum(found[pair] for pair in pairs)
    assert stats.chisquare([found[pair] for pair in pairs], expected).pvalue > 1e-3


def test_positions_without_weight_come_last() -> None:
    draws = make_draws("exact", torch.Generator().manual_seed(0))
    drawn = draws.positions(torch.tensor([[0.0, 2.0, 0.0, 1e-300, 1.0]], dtype=torch.float64).expand(200, -1), 5)
    assert (drawn.sort(dim=1).values == torch.arange(5)).all()
    assert (drawn[:, :3].sort(dim=1).values == torch.tensor([1, 3, 4])).all()


def test_a_uniform_of_zero_chooses_no_weight_of_zero() -> None:
    assert race(torch.tensor([[0.0, 1.0]]).log(), torch.zeros(1, 2, dtype=torch.float64), 1).tolist() == [[1]]


def test_weights_beyond_any_float_are_drawn_in_their_order() -> None:
    uniforms = torch.rand(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (race(torch.tensor([[-3e5, 0.0, -2e5, -1e5]]), uniforms, 4) == torch.tensor([1, 3, 2, 0])).all()


# Tokens

WINDOW = (40, 50)  # as many places as one draw has


def drawn(kind: str, weights: torch.Tensor, seed: int = 5) -> torch.Tensor:
    """2000 draws from weights [V], in one window."""
    draws: Draws = make_draws(kind, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    return draws.tokens(weights.expand(2000, -1), torch.arange(2000), WINDOW)


@pytest.mark.parametrize("kind", ["exact", "gumbel64", "gumbel32"])
def test_tokens_are_drawn_in_proportion(kind: str) -> None:
    """Weights of one to forty-nine, unnormalised; float32 uniforms cut only tails far below a share of one in 2000."""
    weights = torch.tensor([5.0, 0.0, 1.0, 49.0, 20.0, 25.0], dtype=torch.float64)
    counts = torch.bincount(drawn(kind, weights), minlength=6).double()
    assert counts[1] == 0
    assert stats.chisquare(counts[weights > 0], 2000 * weights[weights > 0] / 100).pvalue > 1e-3


def test_the_law_would_be_missed_by_a_share() -> None:
    """The test above would notice weights that are off by three in a hundred."""
    counts = torch.bincount(drawn("exact", torch.tensor([8.0, 0.0, 1.0, 46.0, 20.0, 25.0])), minlength=6).double()
    weights = torch.tensor([5.0, 1.0, 49.0, 20.0, 25.0])
    assert stats.chisquare(counts[[0, 2, 3, 4, 5]], 20 * weights).pvalue < 1e-3


@pytest.mark.parametrize(("kind", "dtype"), [("gumbel32", torch.float32), ("gumbel64", torch.float64)])
def test_a_race_is_the_published_draw_from_the_same_seed(kind: str, dtype: torch.dtype) -> None:
    """`_sample_categorical` of MDLM, SEDD and BD3LM: argmax of p / (1e-10 - log(u + 1e-10))."""
    rows, width, size = 3, 7, 11
    weights = torch.rand(rows, width, size, generator=torch.Generator().manual_seed(2), dtype=dtype)
    torch.manual_seed(9)
    published = (weights / (1e-10 - (torch.rand_like(weights) + 1e-10).log())).argmax(dim=-1)
    draws = make_draws(kind, torch.Generator().manual_seed(9))  # type: ignore[arg-type]
    ours = draws.tokens(weights.flatten(0, 1), torch.arange(rows * width), (rows, width))
    assert torch.equal(ours.view(rows, width), published)


def test_a_race_at_some_places_is_the_race_of_the_window_there() -> None:
    """Logits are computed only where they are needed; the stream is that of the whole window all the same."""
    weights = torch.rand(12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    where = torch.tensor([0, 3, 4, 7, 11])
    whole = make_draws("gumbel64", torch.Generator().manual_seed(9)).tokens(weights, torch.arange(12), (3, 4))
    some = make_draws("gumbel64", torch.Generator().manual_seed(9)).tokens(weights[where], where, (3, 4))
    assert torch.equal(some, whole[where])


def test_a_race_on_given_uniforms_by_hand() -> None:
    """With eps = 0: 1 / -log 0.1 = 0.434, 2 / -log 0.2 = 1.243, 0.4 / -log 0.5 = 0.577; then the last is 0.9."""
    windows: list[tuple[int, ...]] = []

    def source(shape: tuple[int, ...]) -> torch.Tensor:
        windows.append(shape)
        return torch.tensor([[[0.1, 0.2, 0.5], [0.1, 0.2, 0.9]]], dtype=torch.float64)

    draws = RaceDraws(source, eps=0.0)
    weights = torch.tensor([[1.0, 2.0, 0.4], [1.0, 2.0, 0.4]], dtype=torch.float64)
    assert draws.tokens(weights, torch.arange(2), (1, 2)).tolist() == [1, 2]  # 0.4 / -log 0.9 = 3.796
    assert windows == [(1, 2, 3)]


def test_only_the_race_needs_every_position() -> None:
    random = torch.Generator()
    assert [make_draws(kind, random).whole for kind in ("exact", "gumbel64", "gumbel32")] == [  # type: ignore[arg-type]
        False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["exact", "gumbel64", "gumbel32"])
def test_draws_follow_the_generator_and_nothing_else(kind: str) -> None:
    weights = torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.manual_seed(1)
    first = drawn(kind, weights)
    torch.manual_seed(2)
    assert torch.equal(drawn(kind, weights), first)
    assert not torch.equal(drawn(kind, weights, seed=6), first)


@pytest.mark.parametrize("kind", ["exact", "gumbel64", "gumbel32"])
def test_weights_are_not_kept(kind: str) -> None:
    weights = torch.rand(2000, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = weights.clone()
    make_draws(kind, torch.Generator()).tokens(weights, torch.arange(2000), WINDOW)  # type: ignore[arg-type]
    assert torch.equal(weights, before)


@pytest.mark.parametrize("kind", ["exact", "gumbel64", "gumbel32"])
def test_uniforms_fill_the_unit_interval(kind: str) -> None:
    found = make_draws(kind, torch.Generator().manual_seed(0)).uniform(20, 100)  # type: ignore[arg-type]
    assert found.shape == (20, 100)
    assert found.dtype == torch.float64
    assert stats.kstest(found.flatten().numpy(), "uniform").pvalue > 1e-3
    assert float(found.min()) >= 0
    assert float(found.max()) < 1


def test_float32_uniforms_cut_the_tail_of_the_race() -> None:
    """A race lets weight w beat weight 1 only if its time is w times as short: with float32 uniforms, whose largest is
    1 - 2^-24, no time is below 6e-8, so that a rare token comes where -log u for the other is large: never for 1e-9.
    """
    largest = torch.tensor([1 - 2.0**-24], dtype=torch.float32)
    shortest = float(-(largest + 1e-10).log())
    assert shortest == pytest.approx(2.0**-24, rel=1e-3)
    # -log(u + 1e-10) is at most 23: the rare token wins only if shortest / w < 23.
    draws = RaceDraws(lambda shape: torch.tensor([[[1 - 2.0**-24, 0.0]]]))
    for weight, wins in ((1e-8, True), (1e-9, False)):
        token = draws.tokens(torch.tensor([[weight, 1.0]]), torch.zeros(1, dtype=torch.int64), (1, 1))
        assert (token.item() == 0) is wins
