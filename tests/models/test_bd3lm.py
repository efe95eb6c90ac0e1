"""BD3LM: when positions leave the mask, what they become, and the nucleus; laws by chi-square, numbers by hand."""

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.bd3lm import BD3LM
from dlmbench.models.bd3lm_loops import stay_chances
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Settings, Shape
from dlmbench.models.sampling import truncate
from dlmbench.models.weights import random_network

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]


def committed(seen: Any, row: int) -> list[list[int]]:
    """The output columns that each write commits in `row`."""
    return [(write.rows[row].nonzero()[:, 0] + write.offset).tolist() for write in seen.writes]


def fits(found: Tensor, expected: Tensor) -> bool:
    """Whether counts follow expected ones by chi-square; what is expected less than five times is taken together."""
    assert (found[expected == 0] == 0).all()
    common, rare = expected >= 5, (expected > 0) & (expected < 5)
    pairs = [(float(a), float(b)) for a, b in zip(found[common], expected[common], strict=True)]
    if float(expected[rare].sum()) >= 1:
        pairs.append((float(found[rare].sum()), float(expected[rare].sum())))
    ours, theirs = zip(*pairs, strict=True)
    scale = sum(ours) / sum(theirs)
    return bool(stats.chisquare(ours, [value * scale for value in theirs]).pvalue > 1e-3)


@torch.inference_mode()
def law(network: Any, text: Tensor, temperature: float = 1.0) -> Tensor:
    """p(x0) [V] float64 at the last position of one row of text, block-causal with blocks of one."""
    logits = network.logits(network.trunk(text, mask="causal"))[0, -1].double() / temperature
    logits[network.config.mask_id] = -torch.inf
    probabilities: Tensor = logits.softmax(dim=-1).clone()
    return probabilities


@pytest.mark.parametrize("draw", ["exact", "gumbel64"])
def test_first_hitting_reveals_one_position_of_each_row_a_step(
    draw: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    settings = Settings(temperature=1.0, block_length=4, draw=draw)
    tokens, seen = run(BD3LM(make_network()), prompts(3, 5), 7, settings)
    # 5 + 7 positions: three of the block at 4, four of the one at 8.
    for row in range(3):
        steps = committed(seen, row)
        assert sorted(step[0] for step in steps[:3]) == [0, 1, 2]
        assert sorted(step[0] for step in steps[3:]) == [3, 4, 5, 6]
        assert {len(step) for step in steps} == {1}
    assert len({str(committed(seen, row)) for row in range(3)}) > 1  # each row has an order of its own
    assert not (tokens == 60).any()


@pytest.mark.parametrize("draw", ["exact", "gumbel64"])
def test_every_order_is_equally_probable(draw: Any, make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    settings = Settings(temperature=1.0, block_length=3, draw=draw)
    _, seen = run(BD3LM(make_network(num_hidden_layers=1)), prompts(1, 3).expand(2400, -1), 3, settings, seed=1)
    orders = torch.stack([write.rows.int().argmax(dim=1) for write in seen.writes], dim=1)
    found = Counter(map(tuple, orders.tolist()))
    assert stats.chisquare([found[order] for order in permutations(range(3))]).pvalue > 1e-3


@pytest.mark.parametrize("sampler", ["first_hitting", "ddpm"])
@pytest.mark.parametrize(
    ("draw", "temperature"), [("exact", 1.0), ("exact", 0.5), ("gumbel64", 1.0), ("gumbel64", 0.5)]
)
def test_tokens_follow_the_networks_law(
    sampler: str, draw: Any, temperature: float, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, rows = make_network(), 4000
    prompt = prompts(1, 4)
    # One step from t = 1: everything leaves at once.
    steps = 1 if sampler == "ddpm" else None
    settings = Settings(temperature=temperature, block_length=1, draw=draw, sampler=sampler, steps=steps)
    tokens, _ = run(BD3LM(network), prompt.expand(rows, -1), 1, settings, seed=2)
    expected = law(network, torch.cat((prompt, torch.tensor([[network.config.mask_id]])), dim=1), temperature) * rows
    assert fits(torch.bincount(tokens[:, 0], minlength=len(expected)).double(), expected)


def test_temperature_0_takes_the_likeliest_token(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    expected = [
        int(law(network, torch.cat((row[None], torch.tensor([[network.config.mask_id]])), dim=1)).argmax())
        for row in prompt
    ]
    for draw in ("exact", "gumbel64"):
        settings = Settings(block_length=1, draw=draw)
        assert run(BD3LM(network), prompt, 1, settings)[0][:, 0].tolist() == expected


def test_the_grid_by_hand() -> None:
    # T = 3: times 1, 1/2, 0 and steps of 1/3. Of s/t: (2/3)/1, (1/6)/(1/2), (-1/3)/0.
    assert stay_chances(3, strict=False) == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert stay_chances(3, strict=True) == pytest.approx([2 / 3, 1 / 3, -torch.inf])
    assert stay_chances(1, strict=True) == [0.0]


def test_positions_leave_when_the_grid_says(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    # One position alone leaves at step 0, 1 or 2 with probability 1/3, 2/3 x 2/3, 2/3 x 1/3.
    settings = Settings(temperature=1.0, sampler="ddpm", steps=3, block_length=1)
    network = make_network(num_hidden_layers=1)
    _, seen = run(BD3LM(network), prompts(1, 3).expand(3000, -1), 1, settings, seed=3)
    assert len(seen.writes) == 3
    found = [int(write.rows.sum()) for write in seen.writes]
    assert stats.chisquare(found, [1000, 4000 / 3, 2000 / 3]).pvalue > 1e-3
    # Logits only for what leaves.
    assert [forward[5] for forward in seen.forwards if forward[1] == "denoise"] == found


def test_forwards_of_ddpm_are_the_different_leaving_times(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, means = make_network(num_hidden_layers=1), []
    # T = 2: times 1 and 0, each of 4 positions stays at the first with probability 1/2. One forward if all or none
    # does (1/8), else two: 15/8 on average, the same for the published loop.
    for draw in ("exact", "gumbel64"):
        settings = Settings(temperature=1.0, sampler="ddpm", steps=2 * 300, block_length=4, draw=draw)
        _, seen = run(BD3LM(network), prompts(1, 4), 1200, settings, seed=4)
        phases = Counter(forward[1] for forward in seen.forwards)
        assert phases["cache_refresh"] == 299
        means.append(phases["denoise"] / 300)
        assert len(seen.writes) == phases["denoise"]
    # Standard deviation of a mean of 300: sqrt(1/8 x 7/8 / 300) = 0.019.
    assert means == pytest.approx([15 / 8, 15 / 8], abs=0.07)


def test_the_published_grid_ends_in_token_0(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    # T = 2: half of the masks get to t = 0; of the others, p are token 0 by the network.
    network, rows = make_network(num_hidden_layers=1, eos_token_id=1), 2000
    prompt = prompts(1, 4)
    settings = {"temperature": 1.0, "sampler": "ddpm", "steps": 2, "block_length": 1}
    p = float(law(network, torch.cat((prompt, torch.tensor([[60]])), dim=1))[0])
    zeros = {}
    for draw in ("exact", "gumbel64"):
        tokens, _ = run(BD3LM(network), prompt.expand(rows, -1), 1, Settings(draw=draw, **settings), seed=6)
        zeros[draw] = int((tokens == 0).sum())
    assert stats.binomtest(zeros["exact"], rows, p).pvalue > 1e-3
    assert stats.binomtest(zeros["gumbel64"], rows, 0.5 + 0.5 * p).pvalue > 1e-3


def test_the_nucleus_by_hand() -> None:
    weights = torch.tensor([[2.0, 5.0, 3.0, 0.0], [1.0, 1.0, 1.0, 7.0]], dtype=torch.float64)
    cases: list[tuple[float, Any, list[list[float]]]] = [
        # Sorted .5 .3 .2 0 and .7 .1 .1 .1; sums .5 .8 1 1 and .7 .8 .9 1.
        (0.6, "drop", [[0, 5, 0, 0], [0, 0, 0, 7]]),
        (0.6, "keep", [[0, 5, 3, 0], [0, 0, 0, 7]]),
        (0.85, "drop", [[0, 5, 3, 0], [1, 0, 0, 7]]),
        (0.85, "keep", [[2, 5, 3, 0], [1, 1, 0, 7]]),
        (0.4, "drop", [[0, 5, 0, 0], [0, 0, 0, 7]]),  # the first stays, though it exceeds p alone
        (1.0, "drop", weights.tolist()),
    ]
    for top_p, crossing, expected in cases:
        assert torch.equal(truncate(weights.log(), 0, top_p, crossing), torch.tensor(expected).double().log())
    tied = torch.tensor([[0, 5, 3, 0], [1, 1, 1, 7]]).double()  # ties at rank 2 stay
    assert torch.equal(truncate(weights.log(), 2, 1.0), tied.log())


@pytest.mark.parametrize("crossing", ["drop", "keep"])
def test_top_p_draws_from_the_nucleus_only(
    crossing: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt = make_network(), prompts(1, 4)
    weights = law(network, torch.cat((prompt, torch.tensor([[60]])), dim=1))[None]
    expected = truncate(weights.log(), 0, 0.5, crossing)[0].exp()
    settings = Settings(temperature=1.0, top_p=0.5, block_length=1)
    tokens, _ = run(BD3LM(network, crossing=crossing), prompt.expand(3000, -1), 1, settings, seed=7)
    assert fits(torch.bincount(tokens[:, 0], minlength=61).double(), expected / expected.sum() * 3000)


def test_no_prompt_begins_with_eos(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    settings = Settings(block_length=4, temperature=1.0)
    for eos, first in ((7, 7), (None, 0)):
        network = make_network(eos_token_id=eos)
        tokens, seen = run(BD3LM(network), prompts(2, 0), 7, settings)
        given, same = run(BD3LM(network), torch.full((2, 1), first), 7, settings)
        assert torch.equal(tokens, given)
        assert tokens.shape == (2, 7)
        assert seen.forwards == same.forwards
        # The first block holds it and three new tokens; the second block is not stored.
        assert [forward[1] for forward in seen.forwards] == ["denoise"] * 3 + ["cache_refresh"] + ["denoise"] * 4


def test_the_block_is_the_networks_own_unless_asked(prompts: Prompts, run: Run) -> None:
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "cond_dim": 8}
    for block, expected in ((3, {3}), (None, {9})):
        network = random_network(DiTConfig.model_validate(shape | {"block_size": block}), 0, torch.float32, "cpu")
        _, seen = run(BD3LM(network), prompts(1, 3), 6)
        assert {forward[3] for forward in seen.forwards if forward[1] == "denoise"} == expected


def test_what_bd3lm_does_not_know_is_refused(make_network: MakeNetwork) -> None:
    refused = {
        "sampler 'entropy' is not BD3LM's; choose first_hitting or ddpm": Settings(sampler="entropy"),
        "steps: T=4, but first_hitting takes a forward for each of L=8": Settings(steps=4),
        "T=7 is not divisible by the 2 blocks": Settings(sampler="ddpm", steps=7, block_length=4),
        "threshold 0.5: BD3LM does not know it": Settings(threshold=0.5),
        "suppress_mask False": Settings(suppress_mask=False),
    }
    generator = BD3LM(make_network())
    for message, settings in refused.items():
        with pytest.raises(InputError, match=message):
            generator.prepare(Shape(2, 4, 8), settings)
    generator.prepare(Shape(2, 4, 8), Settings(steps=8))
    assert generator.promised_nfe(Shape(2, 4, 8), Settings(sampler="ddpm")) is None
