"""Caches, masks and padding change how a forward is run, never what it computes; and recorded networks are ours."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.checkpoints import load_network
from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.engines import block_step, denoiser
from dlmbench.models.network import Network, Padding, rotate
from dlmbench.models.weights import random_network

GOLDEN = Path(__file__).parents[1] / "golden"
LLAMA = BackboneConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8,
)  # fmt: skip
# Grouped heads, full heads with a QK-norm and biases, and the DiT with and without adaLN.
SHAPES: dict[str, BackboneConfig | DiTConfig] = {
    "llama": LLAMA,
    "qwen": LLAMA.model_copy(update={"qk_norm": True, "attention_bias": True, "num_key_value_heads": 4}),
    "dit": DiTConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, cond_dim=8, time_conditioning=True
    ),
    "causal dit": DiTConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, adaln=False),
}


def made(name: str, **changes: Any) -> Network:
    """A tiny network whose weights are large enough for every position to matter to every other."""
    network = random_network(SHAPES[name].model_copy(update=changes), 3, torch.float32, "cpu")
    random = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    network.rotary(40)
    return network


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=SHAPES)
def network(request: pytest.FixtureRequest) -> Network:
    return made(request.param)


def some_ids(rows: int = 2, length: int = 12, seed: int = 1) -> Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(seed))


def cache_for(network: Network, rows: int = 2, capacity: int = 12, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(network.config, rows, capacity, dtype, "cpu")


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def apart(found: Tensor, expected: Tensor) -> bool:
    """Far beyond rounding: a test that two ways agree means something only where a third differs."""
    return bool((found - expected).abs().max() > 1e-2)


# What the original implementations computed


def recorded(system: str) -> tuple[Network, dict[str, Tensor]]:
    network = load_network(GOLDEN / system, torch.float32, "cpu")
    network.rotary(64)
    return network, load_file(GOLDEN / system / "io.safetensors")


@pytest.mark.parametrize("system", ["llada", "llada_gqa", "dream"])
def test_logits_are_the_originals(system: str) -> None:
    network, golden = recorded(system)
    close(network.logits(network.trunk(golden["input_ids"], mask="bidirectional")), golden["logits"], 1e-4)


@pytest.mark.parametrize(
    ("mask", "name"), [("block_causal", "logits_block_causal"), ("bidirectional", "logits_full_attention")]
)
def test_logits_are_sdars(mask: Any, name: str) -> None:
    network, golden = recorded("sdar")
    hidden = network.trunk(golden["input_ids"], mask=mask, block_length=int(golden["block_size"]))
    close(network.logits(hidden), golden[name], 1e-4)


def test_a_mask_of_ones_own_is_the_mask_by_name() -> None:
    network, golden = recorded("sdar")
    hidden = network.trunk(golden["input_ids"], mask=golden["block_causal_mask"][0].bool())
    close(network.logits(hidden), golden["logits_block_causal"], 1e-4)


@pytest.mark.parametrize("system", ["sdar", "bd3lm"])
def test_the_last_block_beside_stored_ones_is_the_originals(system: str) -> None:
    """Finished blocks are stored clean, one by one; the block in work sees them and itself."""
    network, golden = recorded(system)
    ids = golden["input_ids"] if system == "sdar" else golden["input_ids_kvcache_equiv"]
    rows, length = ids.shape
    cache = cache_for(network, rows, length)
    for start in range(0, length - 4, 4):
        network.trunk(ids[:, start : start + 4], mask="bidirectional", cache=cache, start=start)
    hidden = network.trunk(ids[:, -4:], mask="bidirectional", cache=cache, start=length - 4)
    close(network.logits(hidden), golden["logits_kvcache_last_block"], 1e-4)


def test_bd3lms_training_mask_is_a_mask_of_ones_own() -> None:
    """[noisy; clean] in one sequence, the clean copy at the same positions as the noisy one."""
    network, golden = recorded("bd3lm")
    ids = golden["input_ids_train"]
    length = ids.shape[1]
    places = torch.arange(length // 2).repeat(2).expand(ids.shape[0], -1)
    padding = Padding(torch.ones_like(ids, dtype=torch.bool), places)
    hidden = network.trunk(ids, mask=golden["attention_mask_train"].bool(), padding=padding)
    close(network.logits(hidden[:, : length // 2]), golden["logits_train"], 1e-4)


@pytest.mark.parametrize("system", ["llada", "dream"])
@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_stale_caches_are_fast_dllms(system: str, kind: str) -> None:
    """Changed ids beside keys and values that a forward of the old sequence left: behind them, or on both sides."""
    network, golden = recorded(system)
    ids, changed = golden["input_ids"], golden[f"{kind}_cache_input_ids"]
    rows, length = changed.shape[0], ids.shape[1]
    start = int(golden["prefix_cache_len"] if kind == "prefix" else golden["dual_cache_start"])
    cache = cache_for(network, rows, length)
    network.trunk(ids[:rows], mask="bidirectional", cache=cache)
    hidden = network.trunk(changed, mask="bidirectional", cache=cache, start=start, live=length)
    close(network.logits(hidden), golden[f"{kind}_cache_logits"], 1e-4)


def test_hidden_padding_is_lladas() -> None:
    network, golden = recorded("llada")
    padding = Padding(golden["attention_mask"].bool())
    hidden = network.trunk(golden["input_ids"], mask="bidirectional", padding=padding)
    close(network.logits(hidden), golden["logits_attention_mask"], 1e-4)


def test_padded_positions_are_dreams() -> None:
    network, golden = recorded("dream")
    valid = golden["leftpad_attention_mask"].bool()
    padding = Padding(valid, golden["leftpad_position_ids"])
    logits = network.logits(network.trunk(golden["input_ids"], mask="bidirectional", padding=padding))
    close(logits[valid], golden["leftpad_logits_valid_rows"][valid], 1e-4)


# Caches


@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 3], [5, 6, 7, 8, 9, 10, 11], list(range(1, 12))])
def test_a_causal_sequence_in_pieces_is_the_sequence(network: Network, cuts: list[int]) -> None:
    ids = some_ids()
    whole, cache = network.trunk(ids, mask="causal"), cache_for(network)
    for start, end in zip([0, *cuts], [*cuts, 12], strict=True):
        close(network.trunk(ids[:, start:end], mask="causal", cache=cache, start=start), whole[:, start:end])


@pytest.mark.parametrize("block_length", [1, 3, 4, 5, 12])
def test_blocks_beside_a_cache_are_a_block_causal_sequence(network: Network, block_length: int) -> None:
    """Also where the last block is short (12 = 5 + 5 + 2)."""
    ids = some_ids()
    whole = network.trunk(ids, mask="block_causal", block_length=block_length)
    cache = cache_for(network)
    for start in range(0, 12, block_length):
        block = slice(start, min(12, start + block_length))
        close(network.trunk(ids[:, block], mask="bidirectional", cache=cache, start=start), whole[:, block])


def test_several_blocks_at_once_are_counted_from_position_0(network: Network) -> None:
    """Blocks of 4; the new positions 6 ... 11 begin inside the second block."""
    ids = some_ids()
    whole = network.trunk(ids, mask="block_causal", block_length=4)
    cache = cache_for(network)
    # Positions 4 and 5 belong to a block that is not whole yet: they are written again with it.
    network.trunk(ids[:, :8], mask="block_causal", block_length=4, cache=cache)
    close(
        network.trunk(ids[:, 6:], mask="block_causal", block_length=4, cache=cache, start=6, live=12)[:, 2:],
        whole[:, 8:],
    )


def test_block_length_1_is_causal_and_l_is_bidirectional(network: Network) -> None:
    ids = some_ids()
    causal, both = (network.trunk(ids, mask=mask) for mask in ("causal", "bidirectional"))
    close(network.trunk(ids, mask="block_causal", block_length=1), causal)
    close(network.trunk(ids, mask="block_causal", block_length=12), both)
    assert apart(causal, both)


def test_refeeding_what_the_cache_was_made_of_changes_nothing(network: Network) -> None:
    """The dual cache's error comes from ids that changed, not from the cache."""
    ids, cache = some_ids(), cache_for(network)
    whole = network.trunk(ids, mask="bidirectional", cache=cache)
    for start, end in ((0, 4), (4, 9), (8, 12)):
        again = network.trunk(ids[:, start:end], mask="bidirectional", cache=cache, start=start, live=12)
        close(again, whole[:, start:end])


def test_slots_past_live_are_never_read(network: Network) -> None:
    """By default attention ends with the new positions, whatever an earlier forward left behind them."""
    ids, clean, dirty = some_ids(), cache_for(network), cache_for(network)
    for cache in (clean, dirty):
        network.trunk(ids[:, :4], mask="bidirectional", cache=cache)
    for layer in range(network.config.num_hidden_layers):
        dirty.keys[layer][:, :, 8:] = torch.nan
        dirty.values[layer][:, :, 8:] = torch.nan
    found = network.trunk(ids[:, 4:8], mask="bidirectional", cache=dirty, start=4)
    assert torch.equal(found, network.trunk(ids[:, 4:8], mask="bidirectional", cache=clean, start=4))


def test_slots_up_to_live_are_read(network: Network) -> None:
    ids, cache = some_ids(), cache_for(network)
    network.trunk(ids, mask="bidirectional", cache=cache)
    changed = some_ids(2, 4, seed=9)
    dual = network.trunk(changed, mask="bidirectional", cache=cache, start=4, live=12)
    assert apart(dual, network.trunk(changed, mask="bidirectional", cache=cache, start=4))


def test_each_call_overwrites_its_slots_and_only_these(network: Network) -> None:
    ids, cache = some_ids(), cache_for(network)
    network.trunk(ids, mask="bidirectional", cache=cache)
    before = [keys.clone() for keys in cache.keys]
    network.trunk(some_ids(2, 4, seed=9), mask="bidirectional", cache=cache, start=4, live=12)
    for old, new in zip(before, cache.keys, strict=True):
        same = (old == new).all(dim=(0, 1, 3))
        assert same.tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_a_forward_past_the_cache_is_an_error(network: Network) -> None:
    with pytest.raises(IndexError, match="position 12 is past the cache's 12 slots"):
        network.trunk(some_ids(2, 4), mask="causal", cache=cache_for(network), start=9)


def test_a_cache_in_bfloat16_is_close_but_rounded(network: Network) -> None:
    ids = some_ids()
    exact = network.trunk(ids, mask="bidirectional")
    rounded = network.trunk(ids, mask="bidirectional", cache=cache_for(network, dtype=torch.bfloat16))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().mean() < 0.02 * exact.std()


# Padding


def left_padded(short: Tensor, long: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of two rows, `short` padded on the left with rubbish; which are real; where each real token stands."""
    pad = long.shape[1] - short.shape[1]
    rubbish = some_ids(1, pad, seed=7)
    ids = torch.cat((torch.cat((rubbish, short), dim=1), long))
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[0, :pad] = False
    return ids, valid, (valid.cumsum(dim=1) - 1).clamp(min=0)


@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
@pytest.mark.parametrize("pad", [1, 5])
def test_a_padded_row_is_the_row_alone(network: Network, mask: Any, pad: int) -> None:
    short, long = some_ids(1, 12 - pad, seed=2), some_ids(1, 12, seed=3)
    ids, valid, positions = left_padded(short, long)
    found = network.trunk(ids, mask=mask, padding=Padding(valid, positions))
    close(found[:1, pad:], network.trunk(short, mask=mask))
    close(found[1:], network.trunk(long, mask=mask))


def test_padding_without_positions_shifts_the_row(network: Network) -> None:
    """RoPE knows differences only, so that a row moved as a whole is the same row: both ways of counting agree."""
    short = some_ids(1, 7, seed=2)
    ids, valid, positions = left_padded(short, some_ids(1, 12, seed=3))
    counted = network.trunk(ids, mask="bidirectional", padding=Padding(valid, positions))
    by_column = network.trunk(ids, mask="bidirectional", padding=Padding(valid))
    close(by_column[:1, 5:], counted[:1, 5:], 1e-4)
    close(by_column[:1, 5:], network.trunk(short, mask="bidirectional"), 1e-4)


def test_padding_holds_for_later_forwards_on_the_cache(network: Network) -> None:
    short, long = some_ids(1, 7, seed=2), some_ids(1, 10, seed=3)
    ids, valid, positions = left_padded(short, long)
    tail = some_ids(2, 2, seed=5)
    valid = torch.cat((valid, torch.ones(2, 2, dtype=torch.bool)), dim=1)
    positions = torch.cat((positions, positions[:, -1:] + torch.tensor([1, 2])), dim=1)
    padding, cache = Padding(valid, positions), cache_for(network)
    network.trunk(ids, mask="causal", cache=cache, padding=padding)
    for column in range(2):
        found = network.trunk(
            tail[:, column : column + 1], mask="causal", cache=cache, start=10 + column, padding=padding
        )
        for row, alone in enumerate((short, long)):
            whole = network.trunk(torch.cat((alone, tail[row : row + 1, : column + 1]), dim=1), mask="causal")
            close(found[row : row + 1, 0], whole[:, -1])


# Fixed shapes


@pytest.mark.parametrize("name", ["llama", "causal dit"])
def test_a_static_step_is_a_step(name: str) -> None:
    network, ids = made(name), some_ids()
    cache = cache_for(network)
    whole = network.logits(network.trunk(ids, mask="causal"))
    network.trunk(ids[:, :3], mask="causal", cache=cache)
    for position in range(3, 12):
        found = network.static_step(ids[:, position : position + 1], torch.tensor([position]), cache, 12)
        close(found, whole[:, position])


def test_a_static_block_is_a_block(network: Network) -> None:
    """`end` is where attention stops: with the block (prefix), or behind it (dual)."""
    ids, sigma = some_ids(), 0.4
    condition = network.conditioning(sigma)
    for live in (8, 10, 12):
        eager, static = cache_for(network), cache_for(network)
        for cache in (eager, static):
            network.trunk(ids, mask="bidirectional", cache=cache, condition=condition)
        block = some_ids(2, 4, seed=9)
        expected = network.trunk(block, mask="bidirectional", cache=eager, start=4, live=live, condition=condition)
        found = network.static_block(block, torch.arange(4, 8), torch.tensor([live]), static, 12, condition)
        close(found, expected)
        for ours, theirs in zip(static.keys, eager.keys, strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_a_block_step_is_a_block_at_any_start(network: Network, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The closure that would be compiled, as it is: what is compared is its arithmetic with positions in tensors."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    ids = some_ids()
    condition = network.conditioning(0.4)
    expected_cache, cache = cache_for(network), cache_for(network)
    step = block_step(engine, network, cache, 2, [0, 4, 8], 4)
    for target in (expected_cache, cache):
        network.trunk(ids, mask="bidirectional", cache=target, condition=condition)
    for start, live in ((4, 8), (4, 12), (0, 12), (8, 12), (0, 4)):
        block = some_ids(2, 4, seed=start + live)
        expected = network.trunk(
            block, mask="bidirectional", cache=expected_cache, start=start, live=live, condition=condition
        )
        close(step(block, start, live, condition), expected)


@pytest.mark.slow
def test_a_compiled_block_step_is_the_eager_one(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(torch._dynamo.reset)
    network, ids = made("llama", num_hidden_layers=1), some_ids()
    found = []
    for engine in ("eager", "compile"):
        cache = cache_for(network)
        step = block_step(engine, network, cache, 2, [0, 4, 8], 4)
        network.trunk(ids, mask="bidirectional", cache=cache)
        found.append(
            torch.cat(
                [step(ids[:, start : start + 4], start, live, None) for start, live in ((4, 12), (8, 12), (0, 4))]
            )
        )
    close(*found)


@pytest.mark.slow
def test_a_compiled_denoiser_takes_any_noise_level(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(torch._dynamo.reset)
    network, ids = made("dit", num_hidden_layers=1), some_ids()
    run = denoiser("compile", network, 2, 12)
    for sigma in (0.0, 0.3, 9.0):
        condition = network.conditioning(sigma)
        close(run(ids, condition), network.trunk(ids, mask="bidirectional", condition=condition))


# Rotary positions


def test_rope_depends_on_the_difference_of_positions_only() -> None:
    network = made("llama")
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=random) for _ in range(2))

    def product(i: int, j: int) -> float:
        turned = [rotate(x, network.cos[[p]], network.sin[[p]]) for x, p in ((query, i), (key, j))]
        return float((turned[0] * turned[1]).sum())

    for difference in (0, 3, 11):
        values = [product(start + difference, start) for start in (0, 5, 20)]
        assert values == pytest.approx([values[0]] * 3, abs=1e-5)
    assert abs(product(3, 0) - product(0, 3)) > 1e-3, "the direction counts"


def test_rope_by_hand() -> None:
    """Pairs are (first half, second half); at position p, pair j turns by p / 10000^(2 j / D)."""
    network = made("llama")
    x = torch.tensor([1.0, 0, 0, 2.0, 0, 3.0, 0, 0]).view(1, 1, 1, 8)
    turned = rotate(x, network.cos[[2]], network.sin[[2]])[0, 0, 0]
    first, second, fourth = (torch.tensor(2.0 / 10_000 ** (2 * j / 8)) for j in (0, 1, 3))
    expected = torch.zeros(8)
    expected[0], expected[4] = first.cos(), first.sin()
    expected[1], expected[5] = -3 * second.sin(), 3 * second.cos()
    expected[3], expected[7] = 2 * fourth.cos(), 2 * fourth.sin()
    close(turned, expected, 1e-6)


def test_a_negated_sine_turns_back_and_rows_may_have_positions_of_their_own() -> None:
    network = made("llama")
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 5, 7], [3, 2, 30]])
    turned = rotate(x, network.cos[places], network.sin[places])
    close(rotate(turned, network.cos[places], -network.sin[places]), x, 1e-6)
    for row in range(2):
        close(turned[row], rotate(x[row : row + 1], network.cos[places[row]], network.sin[places[row]])[0], 1e-6)


def test_tables_grow_and_are_kept(make_network: Callable[..., Backbone]) -> None:
    network = make_network()
    table = network.cos
    network.rotary(32)
    assert network.cos is table
    network.rotary(80)
    assert network.cos.shape == (80, 4)
    assert torch.equal(network.cos[:64], table)


def test_a_llama_like_network_has_no_conditioning() -> None:
    assert made("llama").conditioning(0.3) is None
