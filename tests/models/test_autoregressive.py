"""Autoregressive generation: transformers' tokens, its own announcements, and where it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.checkpoints import save_checkpoint
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape

LENGTH = 8
NATURAL = Settings(length_policy="natural")

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]


def greedy_by_hand(network: Backbone, ids: Tensor, length: int = LENGTH) -> Tensor:
    """The definition, with no cache: L full forwards."""
    start = ids.shape[1]
    for _ in range(length):
        ids = torch.cat([ids, network.logits(network.trunk(ids, mask="causal")[:, -1]).argmax(-1, keepdim=True)], 1)
    return ids[:, start:]


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "attention_bias": True},
        {"qk_norm": True, "tie_word_embeddings": True},
    ],
)
def test_greedy_tokens_are_those_of_transformers(
    features: dict[str, Any], make_network: MakeNetwork, prompts: Prompts, run: Run, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    network = make_network(**features)
    save_checkpoint(network, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    generator = Autoregressive(network)
    for rows in (1, 3):
        prompt = prompts(rows)
        tokens, _ = run(generator, prompt, LENGTH)
        expected = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=LENGTH, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert tokens.dtype is torch.int64
        assert torch.equal(tokens, expected[:, prompt.shape[1] :])


def test_it_is_a_generator_with_a_known_cost(make_network: MakeNetwork) -> None:
    network = make_network()
    generator = Autoregressive(network)
    assert isinstance(generator, Generator)
    assert isinstance(generator, Costed)
    assert generator.side == "ar"
    call = ("target", 2, 1, 9, 2, "causal")
    assert generator.forward_cost(*call) == network.forward_cost(*call)


def test_one_prefill_then_one_decode_a_token(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    tokens, seen = run(Autoregressive(make_network()), prompts(3, 5), LENGTH)
    # The first token comes from the prefill, so L tokens take L - 1 decode steps; each sees one key more.
    prefill = [("target", "prefill", 3, 5, 5, 3, "causal")]
    assert seen.forwards == prefill + [("target", "decode", 3, 1, 5 + i, 3, "causal") for i in range(1, LENGTH)]
    assert seen.order == "()w" * LENGTH
    for index, write in enumerate(seen.writes):
        assert (write.step, write.offset, write.committed, write.rows) == (index, index, True, None)
        assert torch.equal(write.ids, tokens[:, index : index + 1])


def test_rows_do_not_see_each_other(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator, prompt = Autoregressive(make_network()), prompts(3)
    together, _ = run(generator, prompt, LENGTH)
    for row in range(3):
        alone, _ = run(generator, prompt[row : row + 1], LENGTH)
        assert torch.equal(alone[0], together[row])


def test_no_state_survives_a_request(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    generator = Autoregressive(network)
    first, _ = run(generator, prompts(seed=1), LENGTH)
    run(generator, prompts(seed=2), LENGTH)
    again, _ = run(generator, prompts(seed=1), LENGTH)
    assert torch.equal(first, again)
    for length in (1, 11, 4):  # other shapes in between, shorter and longer
        tokens, seen = run(generator, prompts(seed=3), length)
        assert torch.equal(tokens, greedy_by_hand(network, prompts(seed=3), length))
        assert len(seen.forwards) == length


def test_the_prompt_is_left_as_it_was(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    prompt = prompts()
    run(Autoregressive(make_network()), prompt, LENGTH)
    assert torch.equal(prompt, prompts())


def test_natural_ends_each_row_at_its_eos(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    free = greedy_by_hand(make_network(), prompts())
    # The third token of row 0 as EOS: that row ends there or before, the others where they first emit it, if ever.
    eos = int(free[0, 2])
    ends = [row.tolist().index(eos) if eos in row.tolist() else LENGTH for row in free]
    steps = min(max(ends) + 1, LENGTH)
    generator = Autoregressive(make_network(eos_token_id=eos))
    tokens, seen = run(generator, prompts(), LENGTH, NATURAL)
    assert len(seen.forwards) == len(seen.writes) == steps
    for row, end in enumerate(ends):
        assert tokens[row, : end + 1].tolist() == free[row, : end + 1].tolist()
        # A row's writes count up to and with its EOS.
        assert [bool(write.rows[row, 0]) for write in seen.writes] == [step <= end for step in range(steps)]

    tokens, seen = run(generator, prompts(), LENGTH, Settings())
    assert torch.equal(tokens, free)  # fixed: EOS is a token like any other
    assert len(seen.forwards) == LENGTH
    assert all(write.rows is None for write in seen.writes)


def test_natural_stops_the_batch_when_every_row_has_ended(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    prompt = prompts(1).repeat(3, 1)
    free = greedy_by_hand(make_network(), prompt)
    eos = int(free[0, 3])
    end = free[0].tolist().index(eos)
    tokens, seen = run(Autoregressive(make_network(eos_token_id=eos)), prompt, LENGTH, NATURAL)
    assert len(seen.forwards) == end + 1 < LENGTH
    assert tokens.shape == (3, LENGTH)
    assert torch.equal(tokens[:, : end + 1], free[:, : end + 1])


def test_natural_without_an_eos_runs_to_the_end(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    tokens, seen = run(Autoregressive(make_network()), prompts(), LENGTH, NATURAL)
    assert torch.equal(tokens, greedy_by_hand(make_network(), prompts()))
    assert len(seen.forwards) == LENGTH


def test_draws_follow_the_seed(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator, settings = Autoregressive(make_network()), Settings(temperature=2.0)
    state = torch.get_rng_state()
    first, _ = run(generator, prompts(), LENGTH, settings, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    again, _ = run(generator, prompts(), LENGTH, settings, seed=1)
    other, _ = run(generator, prompts(), LENGTH, settings, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_of_one_prompt_draw_apart(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    tokens, _ = run(Autoregressive(make_network()), prompts(1).repeat(4, 1), LENGTH, Settings(temperature=2.0))
    assert len({tuple(row) for row in tokens.tolist()}) == 4


@pytest.mark.parametrize("eos", [None, 9])
def test_without_a_prompt_it_starts_from_eos(eos: int | None, make_network: MakeNetwork, run: Run) -> None:
    network = make_network(eos_token_id=eos)
    tokens, seen = run(Autoregressive(network), torch.empty((3, 0), dtype=torch.int64), LENGTH)
    assert torch.equal(tokens, greedy_by_hand(network, torch.full((3, 1), eos or 0)))
    assert seen.forwards[0] == ("target", "prefill", 3, 1, 1, 3, "causal")
    assert seen.forwards[1] == ("target", "decode", 3, 1, 2, 3, "causal")


def test_a_shape_that_was_not_prepared_is_refused(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = Autoregressive(make_network())
    request = Request(prompts(), LENGTH, Settings(), 0)
    with pytest.raises(InputError, match=r"generate\(\) got Shape.*but prepare\(\) was called for None"):
        generator.generate(request, None)  # type: ignore[arg-type]
    generator.prepare(Shape(3, 5, LENGTH + 1), Settings())
    with pytest.raises(InputError, match=rf"length={LENGTH}\).*length={LENGTH + 1}\)"):
        generator.generate(request, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [Settings(steps=4), Settings(block_length=4)])
def test_settings_of_diffusion_are_refused(settings: Settings, make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match="belong to diffusion"):
        Autoregressive(make_network()).prepare(Shape(1, 2, 8), settings)


@torch.inference_mode()
def test_a_narrow_cache_is_used_as_asked(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """Tokens of a bfloat16 cache, by hand; 64 rows of 24, so that some differ from those of a float32 cache."""
    network, ids, by_hand = make_network(), prompts(64, 9), []
    cache = KVCache(network.config, 64, 40, torch.bfloat16, "cpu")
    hidden = network.trunk(ids, mask="causal", cache=cache)
    for position in range(9, 33):
        by_hand.append(network.logits(hidden[:, -1]).argmax(-1, keepdim=True))
        hidden = network.trunk(by_hand[-1], mask="causal", cache=cache, start=position)
    narrow, _ = run(Autoregressive(network, kv_dtype=torch.bfloat16), ids, 24)
    wide, _ = run(Autoregressive(network), ids, 24)
    assert torch.equal(narrow, torch.cat(by_hand, dim=1))
    assert not torch.equal(narrow, wide)


@torch.inference_mode()
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16])
def test_a_static_step_sees_the_live_keys_only(
    kv_dtype: torch.dtype, make_network: MakeNetwork, prompts: Prompts
) -> None:
    """Whatever bound above the position it is given, and whatever lies in the dead slots."""
    network, ids, position = make_network(), prompts(3, 6), 5
    caches = [KVCache(network.config, 3, 12, kv_dtype, "cpu") for _ in range(2)]
    for cache in caches:
        for keys in (*cache.keys, *cache.values):
            keys.fill_(1e4)  # what a longer request may have left
        network.trunk(ids[:, :5], mask="causal", cache=cache)
    exact, static = caches
    expected = network.logits(network.trunk(ids[:, 5:], mask="causal", cache=exact, start=position)[:, 0])
    for live in (6, 7, 12):
        found = network.static_step(ids[:, 5:], torch.tensor([position]), static, live)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
