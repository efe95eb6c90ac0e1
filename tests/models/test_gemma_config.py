"""Gemma's derived sizes by hand and against transformers' modules, its costs against torch's counter, its refusals."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, DiffusionGemmaForBlockDiffusion, DynamicCache

from dlmbench import InputError
from dlmbench.models.diffusion_gemma import DiffusionGemma, gemma_twin
from dlmbench.models.gemma_config import UNCONDITIONED, GemmaConfig, _window_pairs
from dlmbench.models.gemma_hf import gemma_from_hf, gemma_to_hf

# Small enough to count by hand: sliding layers have 4 heads on 2 of 4 wide, the full one 4 heads on 1 of 6 wide.
TINY: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "global_head_dim": 6,
    "num_global_key_value_heads": 1,
    "sliding_window": 6,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 3,
    "canvas_length": 4,
}
# gemma-4-26B-A4B, as in its published config.json; DiffusionGemma-26B-A4B has the same text model.
REAL: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "sliding_window": 1024,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "max_position_embeddings": 262_144,
    "eos_token_id": 1,
}
# Each layer: MLP 3 x 8x12 = 288, router 8x5 = 40, norms 7 x 8, router scales 8 + 5.
EACH = 288 + 40 + 56 + 13
# Sliding: q and o 8x16 each, k and v 8x8 each, norms of q and k 4 each. Full: q and o 8x24, k 8x6, norms 6 each.
SLIDING, FULL = 2 * 128 + 2 * 64 + 8, 2 * 192 + 48 + 12
EXPERT = 3 * 8 * 3


def shape(**changes: Any) -> GemmaConfig:
    return GemmaConfig(**(TINY | changes))


def module_parameters(config: GemmaConfig) -> int:
    """Parameters of transformers' module of this shape, each tensor once, without what vision adds."""
    raw = gemma_to_hf(config)
    theirs = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    with torch.device("meta"):
        if config.self_conditioning:
            model: Any = DiffusionGemmaForBlockDiffusion(theirs)
        else:
            model = AutoModelForCausalLM.from_config(theirs)
    return sum(tensor.numel() for name, tensor in model.named_parameters() if "vision" not in name)


def test_sizes_by_hand() -> None:
    config = shape()
    shared = 3 * EACH + 2 * SLIDING + FULL + 8  # and the final norm
    assert config.layers == ("sliding_attention", "sliding_attention", "full_attention")
    assert config.non_embedding_parameters == shared + 3 * 5 * EXPERT
    assert config.total_parameters == shared + 3 * 5 * EXPERT + 160
    assert config.active_parameters == shared + 3 * 2 * EXPERT + 160
    # The gated MLP of 3 x 8x12, and its norm.
    assert shape(self_conditioning=True).total_parameters == config.total_parameters + 288 + 8
    assert config.weight_bytes("bfloat16") == 2 * config.total_parameters
    # Keys and values, of 8 numbers in each of two layers and of 6 in one.
    assert config.kv_bytes_per_token("float32") == 2 * (8 + 8 + 6) * 4
    assert config.mask_id is None


@pytest.mark.parametrize("self_conditioning", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_layers": 7, "num_experts": 1, "top_k_experts": 1},
        {"layer_types": ("full_attention", "sliding_attention", "full_attention"), "num_global_key_value_heads": 2},
        REAL,
    ],
)
def test_total_parameters_are_the_modules(changes: dict[str, Any], self_conditioning: bool) -> None:
    config = shape(**changes, self_conditioning=self_conditioning)
    assert module_parameters(config) == config.total_parameters


def test_the_real_shape_has_the_published_counts() -> None:
    """gemma-4-26B-A4B's model card: 25.2B parameters in all, 3.8B active."""
    config = shape(**REAL)
    assert round(config.total_parameters / 1e9, 1) == 25.2
    assert round(config.active_parameters / 1e9, 1) == 3.8
    assert [i for i, kind in enumerate(config.layers) if kind == "full_attention"] == [5, 11, 17, 23, 29]


def test_kv_bytes_are_those_of_transformers_cache() -> None:
    model: Any = DiffusionGemma.from_config(
        shape(self_conditioning=True, global_head_dim=8, moe_intermediate_size=4), 0, torch.float32, "cpu"
    ).model
    with torch.inference_mode():
        cache: Any = model.model.encoder(torch.zeros((1, 5), dtype=torch.int64)).past_key_values
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert stored == 5 * shape(global_head_dim=8).kv_bytes_per_token("float32")


@pytest.mark.parametrize(
    ("layers", "full"), [(1, [0]), (5, [4]), (6, [5]), (8, [5, 7]), (12, [5, 11])], ids=lambda value: str(value)
)
def test_every_sixth_layer_and_the_last_attend_to_all(layers: int, full: list[int]) -> None:
    kinds = shape(num_hidden_layers=layers).layers
    assert [i for i, kind in enumerate(kinds) if kind == "full_attention"] == full


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_key_value_heads": 3}, r"must be a multiple of num_key_value_heads \(3\)"),
        ({"num_global_key_value_heads": 3}, r"must be a multiple of num_global_key_value_heads \(3\)"),
        ({"global_head_dim": 7}, r"global_head_dim \(7\) must be even"),
        ({"top_k_experts": 6}, r"top_k_experts \(6\) exceeds num_experts \(5\)"),
        ({"layer_types": ("full_attention",)}, "layer_types has 1 entries for 3 hidden layers"),
        ({"layer_types": ("sliding_attention",) * 3}, "the last of layer_types is sliding_attention"),
        ({"eos_token_id": 20}, r"eos_token_id \(20\) is outside the vocabulary of 20"),
        ({"sliding_window": 1}, "greater than or equal to 2"),
        ({"dropout": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_an_impossible_shape_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        shape(**changes)


def test_it_imports_no_torch() -> None:
    program = "import sys, dlmbench.models.gemma_config; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- costs ----


@given(past=st.integers(0, 12), q_len=st.integers(1, 12), window=st.integers(1, 9))
def test_window_pairs_count_the_mask(past: int, q_len: int, window: int) -> None:
    kv_len = past + q_len
    seen = sum(key <= query and query - key < window for query in range(past, kv_len) for key in range(kv_len))
    assert _window_pairs(q_len, kv_len, window) == seen


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_expected_experts_by_enumeration(tokens: int) -> None:
    config = shape(num_experts=4, top_k_experts=2)
    choices = list(itertools.product(itertools.combinations(range(4), 2), repeat=tokens))
    mean = sum(len(set(itertools.chain(*choice))) for choice in choices) / len(choices)
    assert config.expected_experts(tokens) == pytest.approx(mean)


def test_a_batch_of_eight_reads_two_fifths_of_the_experts_and_a_canvas_all() -> None:
    """8 of 128 a token: the share that n tokens leave unread is (15/16)^n, 0.597 for 8 and 7e-8 for 256."""
    config = shape(**REAL)
    assert [round(config.expected_experts(n), 2) for n in (1, 8, 256)] == [8.0, 51.62, 128.0]
    one, eight = (
        config.forward_cost(rows=n, q_len=1, kv_len=1, logit_rows=0, mask="causal", dtype="bfloat16") for n in (1, 8)
    )
    more = 30 * (51.62 - 8) * 3 * 2816 * 704
    assert eight.bytes - one.bytes == pytest.approx(2 * more, rel=1e-3)
    assert eight.flops == 8 * one.flops


def test_bytes_by_hand() -> None:
    config = shape(self_conditioning=True)
    shape_of = {"rows": 2, "q_len": 4, "kv_len": 13, "dtype": "bfloat16", "kv_dtype": "float32"}
    shared = 3 * EACH + 2 * SLIDING + FULL + 8
    experts = 3 * EXPERT * 5 * (1 - (1 - 2 / 5) ** 8)
    # Sliding layers read the 5 positions that window 6 keeps and the 4 new ones, and write 4; the full one reads 13.
    kv = 4 * 2 * (2 * 16 * (9 + 4) + 12 * (13 + 4))
    encode = config.forward_cost(**shape_of, logit_rows=0, mask="causal")
    assert encode.bytes == pytest.approx(2 * (shared + experts + 8 * 8) + kv)
    denoise = config.forward_cost(**shape_of, logit_rows=8, mask="bidirectional")
    # The head and its logits; the self-conditioning's weights, the embedding once more, and the previous logits.
    more = 160 + 8 * 20 + (288 + 8) + 160 + 8 * 20
    assert denoise.bytes == pytest.approx(encode.bytes + 2 * more)
    # A canvas's first step reads neither the embedding again nor previous logits.
    first = config.forward_cost(**shape_of, logit_rows=8, mask=UNCONDITIONED)
    assert denoise.bytes - first.bytes == pytest.approx(2 * (160 + 8 * 20))


def test_flops_by_hand() -> None:
    """One row decodes at position 8: it sees 6 keys in the sliding layers and 9 in the full one."""
    # In each layer the MLP, the router and two experts; q and o 8x16 twice, k and v 8x8 twice, or q, o 8x24 and k 8x6.
    products = 3 * (288 + 40 + 2 * EXPERT) + 2 * (256 + 128) + (384 + 48)
    # 4 heads of 4 or of 6, a dot product and a weighted sum.
    pairs = 4 * 4 * (2 * 4 * 6 + 6 * 9)
    decode = shape().forward_cost(rows=1, q_len=1, kv_len=9, logit_rows=1, mask="causal", dtype="float32")
    assert decode.flops == 2 * products + pairs + 2 * 8 * 20 == 2 * 2616 + 1632 + 320


@pytest.mark.parametrize("prompt", [3, 9])  # inside the window of 6, and past it
def test_flops_are_those_that_torch_counts(prompt: int, count: Callable[..., Any]) -> None:
    config = shape(self_conditioning=True, global_head_dim=8)  # partial RoPE turns at least one pair
    causal = config.model_copy(update={"self_conditioning": False})
    model: Any = DiffusionGemma.from_config(config, 0, torch.float32, "cpu").model
    twin: Any = gemma_twin(model)
    for network in (model, twin):
        network.set_experts_implementation("eager")  # the counter does not see into grouped products
    ids = torch.arange(2 * prompt).view(2, -1)

    def flops(of: GemmaConfig, q_len: int, kv_len: int, logit_rows: int, mask: str) -> float:
        how = {"rows": 2, "q_len": q_len, "kv_len": kv_len, "logit_rows": logit_rows, "mask": mask}
        return of.forward_cost(**how, dtype="float32").flops

    with torch.inference_mode():
        past = DynamicCache(config=twin.config)
        found = count(lambda: twin(ids, past_key_values=past, logits_to_keep=1))
        assert found.live == flops(causal, prompt, prompt, 2, "causal")
        # transformers multiplies the whole square, in the sliding layers as well.
        assert found.square == flops(causal, prompt, prompt, 2, "bidirectional")
        found = count(lambda: twin(ids[:, :1], past_key_values=past))
        assert found.live == found.square == flops(causal, 1, prompt + 1, 2, "causal")

        cache = model.model.encoder(ids).past_key_values
        canvas, logits = torch.zeros((2, 4), dtype=torch.int64), torch.zeros((2, 4, 20))
        for mask, previous in (("bidirectional", logits), (UNCONDITIONED, None)):
            how = {"decoder_input_ids": canvas, "past_key_values": cache, "self_conditioning_logits": previous}
            found = count(lambda how=how: model(**how))
            assert found.live == found.square == flops(config, 4, prompt + 4, 8, mask)
    # A canvas's first step has no previous prediction: one product with the embedding less, 8 positions of 20 x 8.
    told, first = (flops(config, 4, prompt + 4, 8, mask) for mask in ("bidirectional", UNCONDITIONED))
    assert told - first == 2 * 8 * 20 * 8


def test_a_prefill_counts_what_its_masks_show() -> None:
    """Two more tokens of prompt add their products and the pairs that they see: 6 keys each in the window, 9 + 10."""
    config = shape()
    shorter, longer = (
        config.forward_cost(rows=1, q_len=n, kv_len=n, logit_rows=1, mask="causal", dtype="float32") for n in (8, 10)
    )
    # Weights in products: each layer 288 + 40 + 2 experts; 384 in a sliding layer's attention, 432 in the full one's.
    token = 2 * (3 * (288 + 40 + 2 * EXPERT) + 2 * 384 + 432)
    pairs = 4 * 4 * (2 * 4 * (6 + 6) + 6 * (9 + 10))
    assert longer.flops - shorter.flops == 2 * token + pairs


def test_another_mask_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="block_causal"):
        shape().forward_cost(rows=1, q_len=1, kv_len=1, logit_rows=1, mask="block_causal", dtype="float32")


# ---- Hugging Face configs ----


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_a_config_survives_transformers(self_conditioning: bool) -> None:
    """Through transformers' own config, which rewrites the keys of the full layers, and JSON."""
    config = shape(
        self_conditioning=self_conditioning,
        rope_theta=500.0,
        global_partial_rotary_factor=0.5,
        final_logit_softcapping=20.0,
        eos_token_id=3,
        canvas_length=4 if self_conditioning else 256,  # an AR config has none
    )
    raw = gemma_to_hf(config)
    theirs = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    found = gemma_from_hf(json.loads(json.dumps(theirs.to_dict())))
    assert found == config.model_copy(update={"layer_types": config.layers})


def published(**changes: Any) -> dict[str, Any]:
    """A config.json in the published form: nested, the full layers under keys of their own."""
    text = {
        key: value
        for key, value in REAL.items()
        if key not in ("num_global_key_value_heads", "max_position_embeddings")
    }
    text |= {
        "num_global_key_value_heads": 2,
        "max_position_embeddings": 262_144,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": 30.0,
        "eos_token_id": [1, 106],
        "use_bidirectional_attention": "vision",
    }
    return {"model_type": "gemma4", "text_config": text | changes}


def test_a_published_config_is_read() -> None:
    assert gemma_from_hf(published()) == GemmaConfig(**REAL)
    diffusion = published() | {"model_type": "diffusion_gemma", "canvas_length": 128}
    assert gemma_from_hf(diffusion) == GemmaConfig(**REAL, self_conditioning=True, canvas_length=128)


def test_absent_keys_take_transformers_defaults() -> None:
    raw = {"model_type": "diffusion_gemma", "text_config": {key: TINY[key] for key in TINY if "global" not in key}}
    del raw["text_config"]["sliding_window"], raw["text_config"]["canvas_length"]
    found = gemma_from_hf(raw)
    theirs: Any = AutoConfig.for_model("diffusion_gemma", text_config=dict(raw["text_config"]))
    text = theirs.text_config
    assert found.layers == tuple(text.layer_types)
    assert found.global_head_dim == text.per_layer_config[2].head_dim
    assert found.num_global_key_value_heads == text.per_layer_config[2].num_key_value_heads
    for name in ("sliding_window", "rms_norm_eps", "max_position_embeddings", "eos_token_id", "pad_token_id"):
        assert getattr(found, name) == getattr(text, name)
    assert found.canvas_length == theirs.canvas_length


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"model_type": "llama"}, 'model_type is "llama", expected diffusion_gemma, gemma4 or gemma4_text'),
        ({"model_type": "gemma4"}, "text_config is missing"),
        (published(num_experts=None), "num_experts is missing"),
        (published(enable_moe_block=False), "enable_moe_block is false, expected true"),
        (published(hidden_size_per_layer_input=256), "hidden_size_per_layer_input is 256"),
        (published(num_kv_shared_layers=2), "num_kv_shared_layers is 2"),
        (published(use_bidirectional_attention="all"), 'use_bidirectional_attention is "all"'),
        (published(final_logit_softcapping=None), "final_logit_softcapping is null"),
        (published(head_dim="256"), "head_dim: Input should be a valid integer"),
        (published(top_k_experts=200), r"top_k_experts \(200\) exceeds num_experts \(128\)"),
        (published(rope_parameters={"sliding_attention": {"rope_type": "yarn"}}), "sliding_attention are .*yarn"),
        (published(per_layer_config={"5": {"head_dim": 512}, "11": {"head_dim": 256}}), "per_layer_config is"),
        (published() | {"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ],
)
def test_what_is_not_counted_is_refused_by_name(raw: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=rf"^there/config\.json: .*{problem}"):
        gemma_from_hf(raw, "there/config.json")
