"""The backbone against another implementation: transformers' Llama, Qwen2 and Qwen3 on the same random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.checkpoints import load_network
from dlmbench.models.config import Attention

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Small original context, so that a head of 8 has wavelengths on both sides of the interpolation, and inside it.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "llama-no-groups-tied": (
        LlamaForCausalLM,
        LlamaConfig(**(SIZES | {"num_key_value_heads": 4}), tie_word_embeddings=True),
    ),
    "llama3-rope": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "llama-wide-heads": (LlamaForCausalLM, LlamaConfig(**SIZES, head_dim=16, rms_norm_eps=1e-2)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2-tied": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16)),
    "qwen3-tied": (Qwen3ForCausalLM, Qwen3Config(**(SIZES | {"num_key_value_heads": 1}), tie_word_embeddings=True)),
}
PATHS: dict[str, Path] = {}
LENGTH = 40


@pytest.fixture(params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose every parameter counts: norms away from 1, biases away from 0, attention far from uniform."""
    name: str = request.param
    if name not in PATHS:
        kind, config = MODELS[name]
        torch.manual_seed(1)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
        PATHS[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(PATHS[name])
    return PATHS[name]


@pytest.fixture
def ours(path: Path) -> Backbone:
    network = load_network(path, torch.float32, "cpu")
    network.rotary(LENGTH)
    return network


@pytest.fixture
def theirs(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.requires_grad_(False)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(61, (2, LENGTH), generator=torch.Generator().manual_seed(2))


def logits(network: Backbone, ids: Tensor, mask: Attention = "causal", block_length: int = 1) -> Tensor:
    found: Tensor = network.logits(network.trunk(ids, mask=mask, block_length=block_length))
    return found


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_logits(ours: Backbone, theirs: PreTrainedModel, ids: Tensor) -> None:
    expected = theirs(ids).logits
    assert expected.std() > 0.5  # not a network that says nothing
    same(logits(ours, ids), expected)


@pytest.mark.parametrize("block_length", [1, 4, 16, LENGTH, 100])
def test_block_causal_logits(ours: Backbone, theirs: PreTrainedModel, ids: Tensor, block_length: int) -> None:
    """Against transformers under an explicit additive mask."""
    visible = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for query in range(LENGTH):
        visible[query, : (query // block_length + 1) * block_length] = True
    additive = torch.where(visible, 0.0, -torch.inf).expand(2, 1, LENGTH, LENGTH)
    expected = theirs(ids, attention_mask=additive).logits
    found = logits(ours, ids, "block_causal", block_length)
    same(found, expected)
    if block_length == 1:
        same(found, logits(ours, ids, "causal"))
    if block_length >= LENGTH:
        same(found, logits(ours, ids, "bidirectional"))
        assert (found - logits(ours, ids, "causal")).abs().max() > 0.1


def test_cached_decode_is_the_full_forward(ours: Backbone, theirs: PreTrainedModel, ids: Tensor) -> None:
    full, prompt = theirs(ids).logits, 7
    cache = KVCache(ours.config, 2, LENGTH + 3, torch.float32, "cpu")
    same(ours.logits(ours.trunk(ids[:, :prompt], mask="causal", cache=cache)), full[:, :prompt])
    # Several at once on a cache, as in chunked prefill and verification.
    chunk = ours.trunk(ids[:, prompt : prompt + 5], mask="causal", cache=cache, start=prompt)
    same(ours.logits(chunk), full[:, prompt : prompt + 5])
    for position in range(prompt + 5, LENGTH):
        hidden = ours.trunk(ids[:, position : position + 1], mask="causal", cache=cache, start=position)
        same(ours.logits(hidden[:, 0]), full[:, position])


@pytest.mark.parametrize("live", [LENGTH, LENGTH + 3])
def test_static_decode_is_the_full_forward(ours: Backbone, theirs: PreTrainedModel, ids: Tensor, live: int) -> None:
    full, prompt = theirs(ids).logits, 7
    cache = KVCache(ours.config, 2, LENGTH + 3, torch.float32, "cpu")
    ours.trunk(ids[:, :prompt], mask="causal", cache=cache)
    for position in range(prompt, LENGTH):
        found = ours.static_step(ids[:, position : position + 1], torch.tensor([position]), cache, live)
        same(found, full[:, position])


def test_block_diffusion_on_a_cache_is_the_block_causal_forward(ours: Backbone, ids: Tensor) -> None:
    """A block that sees the cached past whole and itself whole: what a block-causal full forward computes there."""
    full = logits(ours, ids, "block_causal", 8)
    cache = KVCache(ours.config, 2, LENGTH, torch.float32, "cpu")
    for start in range(0, LENGTH, 8):
        block = ids[:, start : start + 8]
        hidden = ours.trunk(block, mask="block_causal", cache=cache, start=start, block_length=8)
        same(ours.logits(hidden), full[:, start : start + 8])
        again = ours.trunk(block, mask="bidirectional", cache=cache, start=start)
        same(again, hidden)


@pytest.mark.parametrize("mask", ["causal", "bidirectional", "block_causal"])
def test_rows_do_not_see_each_other(ours: Backbone, ids: Tensor, mask: Attention) -> None:
    together = logits(ours, ids, mask, 4)
    for row in range(2):
        same(together[row : row + 1], logits(ours, ids[row : row + 1], mask, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_to_float32_as_transformers_is(
    path: Path, theirs: PreTrainedModel, ids: Tensor, dtype: torch.dtype
) -> None:
    exact = theirs(ids).logits
    low: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    network = load_network(path, dtype, "cpu")
    network.rotary(LENGTH)
    found = logits(network, ids)
    assert found.dtype is dtype
    error = (found.float() - exact).square().mean().sqrt()
    with torch.inference_mode():
        their_error = (low(ids).logits.float() - exact).square().mean().sqrt()
    assert error < 1.5 * their_error
