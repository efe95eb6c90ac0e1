"""A cell's memory from shapes: sums whose parts can be written down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.bench.largest import resized
from dlmbench.bench.memory_plan import SAMPLED_B, Shapes, predicted_memory
from dlmbench.models.config import BackboneConfig
from dlmbench.models.names import BUILT_IN
from dlmbench.models.pairs import Pair, SideSpec, load_pair
from dlmbench.profiles.hardware import MemorySplit
from dlmbench.profiles.record import Cell, Decode

CONFIG = BackboneConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
)  # fmt: skip
# 1000 x 64; per layer 64 x (2 x 64 + 2 x 32) + 3 x 64 x 176 and two norms; a norm.
PARAMETERS = 64_000 + 2 * (64 * 192 + 3 * 64 * 176 + 128) + 64
PAIR = Pair(
    name="tiny",
    ar=SideSpec(generator="ar", backbone=CONFIG),
    diffusion=SideSpec(generator="masked-diffusion", backbone=CONFIG),
)
# A position at the widest moment of a forward, and its keys and values, in numbers.
FED, KEPT = 3 * (64 + 64 + 32 + 176), 2 * 2 * 32
MDLM = load_pair("mdlm-small")


def cell(generator: str = "ar", pair: Pair = PAIR, **fields: Any) -> Cell:
    side = BUILT_IN[generator].side
    steps = fields.pop("steps", 8) if side == "diffusion" else None
    values = {"pair": pair.name, "side": side, "generator": generator, "length": 64, "prompt_length": 32}
    return Cell(**(values | {"steps": steps, "batch": 2} | fields))


def split(of: Cell, pair: Pair = PAIR, device: str = "cpu") -> MemorySplit:
    return predicted_memory(of, Shapes.of(of, pair), device)


def test_ar_by_hand() -> None:
    found = split(cell())
    assert found.weights_b == PARAMETERS * 4
    assert found.kv_b == 2 * 96 * KEPT * 4
    assert found.logits_b == 2 * 1000 * 4
    # The prompt's forward, and two positions picked for the head; greedy choices need nothing more.
    assert found.activations_b == 2 * 32 * FED * 4 + 2 * 64 * 4
    assert found.total_b == sum((found.weights_b, found.kv_b, found.logits_b, found.activations_b, found.rest_b))


def test_a_full_canvas_by_hand() -> None:
    found = split(cell("masked-diffusion", dtype="bfloat16"))
    assert found.weights_b == PARAMETERS * 2
    assert found.kv_b == 0
    # Every mask is a candidate of the first step: 2 x 64 positions, ranked in float32 (512,000 B), twice.
    assert found.logits_b == 128 * 1000 * 2
    assert found.activations_b == 2 * 96 * FED * 2 + 128 * 64 * 2 + 2 * 512_000


def test_chance_decides_without_ranking() -> None:
    """Random remasking computes what a step commits: 64 / 8 positions a row."""
    found = split(cell("masked-diffusion", decode=Decode(remasking="random")))
    assert found.logits_b == 2 * 8 * 1000 * 4
    assert found.activations_b == 2 * 96 * FED * 4 + 16 * 64 * 4


def test_on_a_gpu_the_wider_of_forward_and_logits_counts() -> None:
    """There freed memory is used again at once; cuBLAS's workspace of 32 MiB comes on top."""
    found = split(cell("masked-diffusion", decode=Decode(remasking="random")), device="cuda")
    assert found.logits_b + found.activations_b == 2 * 96 * FED * 4 + (32 << 20)
    few = split(cell("masked-diffusion", steps=1, decode=Decode(remasking="random")), device="cuda")
    hidden, picked, logits = 2 * 96 * 64 * 4, 128 * 64 * 4, 128 * 1000 * 4
    assert few.logits_b + few.activations_b == max(2 * 96 * FED * 4, hidden + picked + logits) + (32 << 20)


def test_graphs_keep_their_widest_moments_and_add_up() -> None:
    """A prompt's graph and one step's, each with a pool, a workspace and the logits of its head."""
    found = split(cell(engine="cudagraph"), device="cuda")
    logits = 2 * 1000 * 4
    pools = (2 * 32 * FED * 4 + 2 * 1 * FED * 4) + 2 * ((22 << 20) + (32 << 20) + logits)
    assert found.logits_b + found.activations_b == pools + 2 * 64 * 4 + logits
    # At 600 positions decoding has steps of 256, 316 and 632 live slots.
    longer = split(cell(engine="cudagraph", length=600), device="cuda")
    more = 2 * (2 * FED * 4 + (54 << 20) + logits)
    assert longer.activations_b - found.activations_b == more


def test_guidance_doubles_rows_and_logits() -> None:
    plain, guided = (
        split(cell("masked-diffusion", steps=1, decode=Decode(remasking="random", cfg_scale=scale)))
        for scale in (0.0, 1.0)
    )
    assert guided.logits_b == 2 * plain.logits_b
    # The guided logits are a third tensor.
    assert guided.activations_b == 2 * plain.activations_b + plain.logits_b


def test_a_cache_costs_its_tokens() -> None:
    whole, cached = (split(cell("fast-dllm", block_length=16, cache=cache)) for cache in ("none", "dual"))
    assert (whole.kv_b, cached.kv_b) == (0, 2 * 96 * KEPT * 4)
    half = split(cell("fast-dllm", block_length=16, cache="dual", kv_dtype="bfloat16"))
    assert half.kv_b == cached.kv_b / 2
    # What is read from it is cast, a layer's keys and values at a time.
    assert half.activations_b - cached.activations_b == 2 * 2 * 96 * 32 * 4


def test_scores_are_written_out_by_the_kernel_math_alone() -> None:
    auto, math = (split(cell(prompt_length=32, attention=kernel)) for kernel in ("auto", "math"))
    assert math.activations_b - auto.activations_b == 3 * 2 * 4 * 32 * 32 * 4


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"batch": 2}, False),
        ({"engine": "compile"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"generator": "hf"}, False),
    ],
)
def test_a_batch_of_one_keeps_second_layouts_where_they_are_read(fields: dict[str, Any], expected: bool) -> None:
    of = cell(**({"batch": 1} | fields))
    layouts = 4 * (2 * 64 * (64 + 64 + 2 * 176) + 64 * 1000)
    assert split(of).weights_b - CONFIG.weight_bytes(of.dtype) == (layouts if expected else 0)
    assert split(of, device="cuda").weights_b == CONFIG.weight_bytes(of.dtype)


def test_each_side_has_its_own_weights() -> None:
    """MDLM's AR baseline lacks adaLN."""
    ar, diffusion = split(cell("ar", MDLM), MDLM), split(cell("mdlm", MDLM), MDLM)
    assert ar.weights_b == MDLM.ar.backbone.weight_bytes("float32")
    assert diffusion.weights_b == MDLM.diffusion.backbone.weight_bytes("float32")


def test_gpt2_is_itself_whatever_the_pair() -> None:
    """124,439,808 parameters (Radford et al. 2019)."""
    assert split(cell("gpt2", MDLM), MDLM).weights_b == pytest.approx(4 * 124_439_808, rel=0.01)


def test_a_hybrid_holds_two_networks_unless_they_are_one() -> None:
    one, two = split(cell("speculative", steps=None)), split(cell("speculative", MDLM, steps=None), MDLM)
    assert one.weights_b == CONFIG.weight_bytes("float32")
    both = MDLM.ar.backbone.weight_bytes("float32") + MDLM.diffusion.backbone.weight_bytes("float32")
    assert two.weights_b == both
    # P + L + k + 1 positions in the target's cache and in the drafter's.
    assert one.kv_b == 2 * (2 * 101 * KEPT * 4)


def test_a_hybrid_on_two_checkpoints_of_one_shape_holds_both() -> None:
    ar = PAIR.ar.model_copy(update={"weights": "/a"})
    assert split(cell("speculative", steps=None), PAIR.model_copy(update={"ar": ar})).weights_b == PARAMETERS * 4 * 2


def test_gemmas_previous_prediction_conditions_the_next() -> None:
    """Logits of a canvas of 256 in bfloat16, and six times as many in float32 beside them."""
    pair = load_pair("diffusiongemma-26b-a4b")
    found = split(cell("diffusion-gemma", pair, length=256, dtype="bfloat16", batch=1), pair, "cuda")
    assert found.logits_b == 256 * 262_144 * 2
    assert found.activations_b > 6 * 256 * 262_144 * 4
    assert found.weights_b == pair.diffusion.backbone.weight_bytes("bfloat16")


def test_sampling_works_on_parts_of_the_size_that_it_says() -> None:
    from dlmbench.models.sampling import BLOCK_BYTES

    assert SAMPLED_B == BLOCK_BYTES


SIZED = [
    cell("ar"),
    cell("ar", engine="cudagraph"),
    cell("hf"),
    cell("masked-diffusion"),
    cell("masked-diffusion", decode=Decode(remasking="random")),
    cell("masked-diffusion", engine="cudagraph"),
    cell("fast-dllm", cache="prefix", block_length=16, engine="cudagraph"),
    cell("dream"),
    cell("mdlm"),
    cell("sdar", block_length=4),
    cell("bd3lm", block_length=4, steps=None),
    cell("speculative", steps=None),
]


@settings(max_examples=200, deadline=None)
@given(of=st.sampled_from(SIZED), batch=st.integers(2, 300), length=st.integers(16, 3000), more=st.integers(1, 200))
def test_more_rows_and_more_tokens_take_more(of: Cell, batch: int, length: int, more: int) -> None:
    """What bisection rests on. (A batch of one keeps second layouts: see above.)"""
    device = "cuda" if "cudagraph" in of.engine else "cpu"
    base = split(resized(of, batch, length), device=device).total_b
    assert split(resized(of, batch + more, length), device=device).total_b > base
    assert split(resized(of, batch, length + more), device=device).total_b >= base
