"""What block diffusion generators share: where blocks lie, which forwards run, and that the cache changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.bd3lm import BD3LM
from dlmbench.models.block_diffusion import BlockDiffusion, training_mask
from dlmbench.models.block_forwards import Blocks
from dlmbench.models.block_plan import even_plan, recorded_plan, steps_of_each_block
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.network import Network
from dlmbench.models.sdar import SDAR
from dlmbench.models.weights import random_network

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]


def dit(**changes: Any) -> Network:
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "cond_dim": 8}
    network = random_network(DiTConfig.model_validate(shape | changes), 3, torch.float32, "cpu")
    random = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return network


@pytest.mark.parametrize(
    ("prompt", "length", "size", "starts", "end"),
    [
        (6, 12, 4, [4, 8, 12, 16], 20),  # the prompt ends inside 4..7; 18 rounds up to 20
        (8, 12, 4, [8, 12, 16], 20),
        (0, 5, 4, [0, 4], 8),
        (5, 1, 6, [0], 6),
        (5, 1, 32, [0], 32),
        (3, 4, 1, [3, 4, 5, 6], 7),
    ],
)
def test_blocks_are_counted_from_position_0(prompt: int, length: int, size: int, starts: list[int], end: int) -> None:
    blocks = Blocks(prompt, length, size)
    assert list(blocks.starts) == starts
    assert blocks.end == end
    assert sum(blocks.new(start) for start in starts) == end - prompt
    assert [blocks.known(start) for start in starts] == [max(prompt - starts[0], 0)] + [0] * (len(starts) - 1)


def test_the_training_mask_by_hand() -> None:
    # Two blocks of two: rows are the queries n0 n1 n2 n3 (noisy), c0 c1 c2 c3 (clean), columns the same as keys.
    rows = ["11000000", "11000000", "00111100", "00111100", "00001100", "00001100", "00001111", "00001111"]
    expected = torch.tensor([[digit == "1" for digit in row] for row in rows])
    assert torch.equal(training_mask(4, 2), expected)


def test_a_block_longer_than_the_text_is_trained_as_full_diffusion() -> None:
    mask = training_mask(3, 8)
    assert mask[:3, :3].all()
    assert not mask[:3, 3:].any()


def test_steps_are_shared_among_all_blocks() -> None:
    blocks = Blocks(prompt=6, length=12, size=4)  # four blocks
    assert steps_of_each_block(blocks, None, 7) == 7
    assert steps_of_each_block(blocks, 8, 7) == 2
    with pytest.raises(InputError, match=r"T=9 is not divisible by the 4 blocks .* choose a multiple of 4"):
        steps_of_each_block(blocks, 9, 7)
    with pytest.raises(InputError, match=r"T=20 exceeds the 16 positions"):
        steps_of_each_block(blocks, 20, 7, most=4)
    assert steps_of_each_block(blocks, 20, 7) == 5


def test_a_shared_block_uses_up_fewer_of_the_counts() -> None:
    blocks = Blocks(prompt=6, length=6, size=4)  # 2, 4 and - rounded up - no more new positions: 6 + 6 = 12
    assert even_plan(blocks, [2, 1, 1], 2) == [[(2, 2)], [(2, 2), (1, 1), (1, 1)]]
    assert even_plan(blocks, [3, 1], 1) == [[(2,)], [(3,), (1,)]]


def test_a_recorded_schedule_is_cut_at_the_blocks() -> None:
    blocks = Blocks(prompt=2, length=6, size=4)  # 2 new positions, then 4
    # Row 0 takes 2 | 3, 1. Row 1 takes 1, 1 | 4, its waiting zero left out. Row 2 is row 0 again.
    plan = recorded_plan(blocks, [(2, 0, 3, 5), (1, 1, 0, 4)], 3, idle=False)
    assert plan == [[(2, 1, 2), (0, 1, 0)], [(3, 4, 3), (1, 0, 1)]]
    assert recorded_plan(blocks, [(1, 0, 1, 4)], 1, idle=False) == [[(1,), (1,)], [(4,)]]
    assert recorded_plan(blocks, [(1, 0, 1, 4)], 1, idle=True) == [[(1,), (0,), (1,)], [(4,)]]
    with pytest.raises(InputError, match="row 1: its counts end after 5 positions, expected 6"):
        recorded_plan(blocks, [(2, 4), (2, 3)], 2, idle=False)
    # Five tokens are three of the second block's four positions: nobody announces the fourth, the last step takes it.
    short = Blocks(prompt=2, length=5, size=4)
    assert recorded_plan(short, [(2, 1, 2, 0)], 1, idle=True) == [[(2,)], [(1,), (2,), (1,)]]
    assert recorded_plan(short, [(2, 1, 2)], 1, idle=False) == [[(2,)], [(1,), (3,)]]
    assert recorded_plan(short, [(2, 1, 3)], 1, idle=False) == [[(2,)], [(1,), (3,)]]
    with pytest.raises(InputError, match="a count is -1"):
        recorded_plan(blocks, [(2, -1, 4)], 1, idle=False)
    with pytest.raises(InputError, match="no rows"):
        recorded_plan(blocks, [], 1, idle=False)


def generators(network: Network) -> list[tuple[BlockDiffusion, Settings]]:
    return [
        (SDAR(network), Settings(sampler="low_confidence_static", block_length=4)),
        (SDAR(network), Settings(sampler="low_confidence_dynamic", threshold=0.3, block_length=4)),
        (SDAR(network), Settings(sampler="sequential", block_length=4, temperature=1.0)),
        (BD3LM(network), Settings(block_length=4, temperature=1.0)),
        (BD3LM(network), Settings(sampler="ddpm", steps=24, block_length=4, temperature=1.0)),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("kind", ["llama", "shifted", "dit"])
def test_the_cache_saves_work_and_changes_no_token(
    which: int, kind: str, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network: Network = dit() if kind == "dit" else make_network(shifted_logits=kind == "shifted")
    prompt = prompts(3, 6)
    generator, settings = generators(network)[which]
    cached, seen = run(generator, prompt, 12, settings)
    whole, all_of_it = run(generator, prompt, 12, replace(settings, cache="none"))
    assert torch.equal(cached, whole)
    assert cached.shape == (3, 12)
    assert not (cached == network.config.mask_id).any()
    # 6 + 12 positions: block 0 of the prompt prefilled, then blocks at 4, 8, 12 and 16, three of them stored.
    phases = [forward[1] for forward in seen.forwards]
    assert phases[0] == "prefill"
    assert phases.count("cache_refresh") == 3
    assert {forward[1] for forward in all_of_it.forwards} == {"denoise"}
    denoised = phases.count("denoise")
    assert denoised == len(all_of_it.forwards)
    assert all(forward[3:5] == (4, end) for forward in seen.forwards if (end := forward[4]) > 4)
    assert all(forward[3] == forward[4] and forward[6] == "block_causal:4" for forward in all_of_it.forwards)
    assert seen.forwards[0] == ("target", "prefill", 3, 4, 4, 0, "block_causal:4")
    # What is announced as committed is what comes out.
    announced = torch.full_like(cached, -1)
    for write in seen.writes:
        part = announced[:, write.offset : write.offset + write.ids.shape[1]]
        part[write.rows] = write.ids[write.rows]
    assert torch.equal(announced, cached)


@pytest.mark.parametrize("prompt_length", [0, 3, 8, 9])
@pytest.mark.parametrize("block", [1, 2, 4, 6, 12, 32])
@pytest.mark.parametrize("cache", [None, "none"])
@pytest.mark.parametrize("idle", ["skip", "run"])
def test_the_number_of_forwards_is_promised(
    prompt_length: int, block: int, cache: Any, idle: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt = make_network(), prompts(2, prompt_length)
    settings = Settings(block_length=block, cache=cache, idle_steps=idle)
    for generator in (SDAR(network, sampler="low_confidence_static"), BD3LM(network)):
        _, seen = run(generator, prompt, 8, settings)
        given = max(prompt_length, 1) if isinstance(generator, BD3LM) else prompt_length
        blocks = -(-(given + 8) // block) - given // block
        # A forward for each position that is computed, a store after each block (but the last), a prefill.
        expected = (given // block + blocks) * block - given
        if cache is None:
            expected += blocks - (idle == "skip") + (given >= block)
        assert len(seen.forwards) == expected
        assert generator.promised_nfe(Shape(2, prompt_length, 8), settings) == expected


def test_logits_are_computed_for_masked_positions_only(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    logit_rows = {
        # Four masks, then three, two, one, in two rows; the sequential rule needs only those that it commits.
        "low_confidence_static": [8, 6, 4, 2],
        "sequential": [2, 2, 2, 2],
    }
    for sampler, expected in logit_rows.items():
        _, seen = run(SDAR(network, sampler=sampler), prompt, 4, Settings(block_length=4))
        assert [forward[5] for forward in seen.forwards if forward[1] == "denoise"] == expected
    _, seen = run(BD3LM(network), prompt, 4, Settings(block_length=4))
    assert [forward[5] for forward in seen.forwards if forward[1] == "denoise"] == [2, 2, 2, 2]


@pytest.mark.parametrize(("prompt_length", "length", "steps"), [(0, 12, 12), (0, 12, 5), (0, 12, 1), (5, 7, None)])
def test_one_block_over_everything_is_full_masked_diffusion(
    prompt_length: int, length: int, steps: int | None, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt = make_network(), prompts(3, prompt_length)
    full, _ = run(MaskedDiffusion(network), prompt, length, Settings(steps=steps))
    block = prompt_length + length
    settings = Settings(steps=steps, block_length=block)
    ours, seen = run(SDAR(network, sampler="low_confidence_static"), prompt, length, settings)
    assert torch.equal(ours, full)
    assert {forward[1] for forward in seen.forwards} == {"denoise"}


def test_blocks_of_one_are_the_ar_model_where_logits_are_shifted(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    # The state before a mask is that of the finished text so far under a causal mask.
    prompt = prompts(3, 5)
    shifted, plain = make_network(shifted_logits=True), make_network()
    expected, _ = run(Autoregressive(plain), prompt, 10)
    settings = Settings(block_length=1, suppress_mask=False)
    ours, _ = run(SDAR(shifted, sampler="sequential"), prompt, 10, settings)
    assert not (expected == plain.config.mask_id).any()
    assert torch.equal(ours, expected)
    # Unshifted, a mask in its own place is asked: another question to the same weights.
    other, _ = run(SDAR(plain, sampler="sequential"), prompt, 10, settings)
    assert not torch.equal(other, expected)


def test_natural_ends_with_the_block_in_which_every_row_has_ended(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    prompt = prompts(2, 4)
    tokens, _ = run(SDAR(make_network(), sampler="sequential"), prompt, 16, Settings(block_length=4))
    shared = set(tokens[0].tolist()) & set(tokens[1].tolist())
    ends = {token: max(int((row == token).nonzero()[0]) for row in tokens) // 4 for token in shared}
    eos, last = min(ends.items(), key=lambda item: item[1])
    assert last < 3, "no token that ends both rows early: choose another seed"
    network = make_network(eos_token_id=eos)
    for idle, stores in (("skip", last), ("run", last + 1)):
        settings = Settings(block_length=4, length_policy="natural", idle_steps=idle)
        stopped, seen = run(SDAR(network, sampler="sequential"), prompt, 16, settings)
        assert torch.equal(stopped[:, : 4 * last + 4], tokens[:, : 4 * last + 4])
        phases = [forward[1] for forward in seen.forwards]
        assert phases.count("denoise") == 4 * (last + 1)
        assert phases.count("cache_refresh") == stores


@pytest.mark.parametrize("kind", ["llama", "shifted", "dit"])
def test_a_compiled_block_gives_the_same_tokens(
    kind: str, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network: Network = dit() if kind == "dit" else make_network(shifted_logits=kind == "shifted")
    settings = Settings(sampler="low_confidence_static", block_length=4)
    expected, _ = run(SDAR(network), prompts(2, 6), 8, settings)
    ours, _ = run(SDAR(network, engine="compile"), prompts(2, 6), 8, settings)
    assert torch.equal(ours, expected)


def test_keys_and_values_may_have_a_dtype_of_their_own(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    generator = SDAR(network, sampler="sequential", kv_dtype=torch.bfloat16)
    tokens, _ = run(generator, prompts(2, 4), 8)
    assert tokens.shape == (2, 8)
    assert isinstance(generator, Generator)
    assert isinstance(generator, Costed)
    announced = ("target", 2, 4, 8, 2, "bidirectional")
    # 2 layers x (keys and values) x 2 heads x 8 wide, at 8 + 4 positions of 2 rows: 2 bytes fewer each.
    saved = 2 * 2 * 2 * 8 * (8 + 4) * 2 * 2
    assert SDAR(network).forward_cost(*announced).bytes - generator.forward_cost(*announced).bytes == saved


def test_what_does_not_fit_is_refused(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    for make in (SDAR, BD3LM):
        with pytest.raises(InputError, match="does not see the time"):
            make(dit(time_conditioning=True))
        with pytest.raises(InputError, match=r"needs a mask token"):
            make(dit(graph="uniform", parameterization="score", time_conditioning=True))
        with pytest.raises(InputError, match=r"cache 'dual': .* knows kv"):
            run(make(network), prompt, 8, Settings(cache="dual"))
        with pytest.raises(InputError, match="cache none with engine compile"):
            run(make(network, engine="compile"), prompt, 8, Settings(cache="none"))
        with pytest.raises(InputError, match="cfg_scale"):
            run(make(network), prompt, 8, Settings(cfg_scale=1.0))
        generator = make(network)
        generator.prepare(Shape(2, 4, 8), Settings())
        with pytest.raises(InputError, match=r"prepare\(\) was called for others"):
            generator.generate(Request(prompt, 4, Settings(), 0), None)
        mask = torch.ones(2, 4, dtype=torch.bool)
        mask[0, 0] = False
        with pytest.raises(InputError, match="equal length"):
            generator.generate(Request(prompt, 8, Settings(), 0, prompt_mask=mask), None)


def test_a_mask_token_in_the_prompt_stays(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 6)
    prompt[0, 5] = network.config.mask_id
    for generator, settings in generators(network)[:4]:
        cached, seen = run(generator, prompt, 6, settings)
        assert not (cached == network.config.mask_id).any()
        assert sum(int(write.rows[0].sum()) for write in seen.writes) == 6
