"""Every system from a pair's name to a sample: plan, load, open, measure, close, in this process on tiny networks."""

from __future__ import annotations

from typing import Any

import pytest

from dlmbench.bench.options import RunOptions, overridden
from dlmbench.bench.station import Worker
from dlmbench.bench.suites import Suite, checked_suite, expand
from dlmbench.models.pairs import Pair, load_pair
from dlmbench.profiles.record import Cell

DIT = """
[backbone]
family = "dit"
vocab_size = 4097
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
cond_dim = 8
max_position_embeddings = 64
eos_token_id = 4094
[ar.backbone]
adaln = false
"""
LLAMA = """
[backbone]
vocab_size = 4096
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
eos_token_id = 4094
mask_token_id = 4095
"""
GEMMA = """
[backbone]
family = "gemma"
vocab_size = 4096
hidden_size = 64
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16
global_head_dim = 32
num_global_key_value_heads = 1
sliding_window = 32
layer_types = ["sliding_attention", "full_attention"]
num_experts = 4
top_k_experts = 2
moe_intermediate_size = 32
max_position_embeddings = 512
canvas_length = 8
eos_token_id = 1
[ar]
generator = "hf"
[diffusion.backbone]
self_conditioning = true
"""
SCORE = '[diffusion.backbone]\ntime_conditioning = true\nparameterization = "score"\nscale_by_sigma = true\n'
SHIFTED = "[diffusion.backbone]\nshifted_logits = true\n"
BLOCKS = "[diffusion.backbone]\nblock_size = 4\n"

LENGTH, PROMPT, STEPS = 8, 6, 4

# Generator, network, its diffusion side, settings, and the forwards that L = 8, P = 6, T = 4 should take (None: drawn).
CASES: dict[str, tuple[str, str, str, dict[str, Any], int | None]] = {
    "mdlm ddpm": ("mdlm", DIT, "", {"samplers": ("ddpm",)}, STEPS + 1),
    "mdlm ddpm_cache": ("mdlm", DIT, "", {}, None),
    "mdlm analytic": ("mdlm", DIT, "", {"samplers": ("analytic",), "temperature": 1.0}, STEPS + 1),
    "mdlm on a backbone": ("mdlm", LLAMA, "", {"samplers": ("ddpm",)}, STEPS + 1),
    "sedd analytic": ("sedd", DIT, SCORE, {}, STEPS + 1),
    "sedd euler": ("sedd", DIT, SCORE, {"samplers": ("euler",)}, STEPS + 1),
    "llada": ("llada", LLAMA, "", {}, STEPS),
    "llada guided": ("llada", LLAMA, "", {"cfg_scale": 1.5}, STEPS),
    "fast-dllm": ("fast-dllm", LLAMA, "", {"block_lengths": (4,)}, STEPS),
    "fast-dllm prefix": ("fast-dllm", LLAMA, "", {"block_lengths": (4,), "caches": ("prefix",)}, STEPS),
    "fast-dllm dual": ("fast-dllm", LLAMA, "", {"block_lengths": (4,), "caches": ("dual",)}, STEPS),
    # On random weights the threshold gives way to an even schedule of T steps.
    "fast-dllm threshold": ("fast-dllm", LLAMA, "", {"block_lengths": (4,), "threshold": 0.9}, STEPS),
    # int(8 (1 - s/t)) on Dream's grid is never 0 at T = 4, so that every step runs.
    "dream entropy": ("dream", LLAMA, SHIFTED, {"samplers": ("entropy",)}, STEPS),
    "dream maskgit_plus": ("dream", LLAMA, SHIFTED, {"samplers": ("maskgit_plus",)}, STEPS),
    "dream topk_margin": ("dream", LLAMA, SHIFTED, {"samplers": ("topk_margin",)}, STEPS),
    "dream origin": ("dream", LLAMA, SHIFTED, {}, None),
    # One token a forward, and a stored block of keys after each of the blocks 4-7, 8-11 but not the last, 12-13;
    # before that the prompt's whole block.
    "bd3lm": ("bd3lm", DIT, BLOCKS, {}, None),
    "bd3lm ddpm": ("bd3lm", DIT, BLOCKS, {"samplers": ("ddpm",), "steps": (6,)}, None),
    # Prefill, then blocks of 2, 4 and 2 new tokens at one step each (T = 3), two of them stored.
    "sdar": ("sdar", LLAMA, BLOCKS, {"steps": (3,)}, 1 + 3 + 2),
    "sdar sequential": ("sdar", LLAMA, BLOCKS, {"samplers": ("sequential",), "steps": (3,)}, 1 + 3 + 2),
    "block-diffusion": ("block-diffusion", LLAMA, BLOCKS, {"steps": (3,)}, 1 + 3 + 2),
    "speculative": (
        "speculative", LLAMA, "", {"commit_schedule": "constant:5", "block_lengths": (4,), "steps": (2, 4)}, 1 + 2,
    ),
    "diffusion-gemma": ("diffusion-gemma", GEMMA, "", {}, STEPS + 1),
}  # fmt: skip


def planned(tmp_path: Any, name: str, **changes: Any) -> tuple[Suite, Pair, list[Cell]]:
    generator, network, diffusion, settings, _ = CASES[name]
    text = (
        network
        if "[diffusion.backbone]" not in network
        else network.replace("[diffusion.backbone]", f'[diffusion]\ngenerator = "{generator}"\n[diffusion.backbone]')
    )
    if "[diffusion.backbone]" not in network:
        text += f'[diffusion]\ngenerator = "{generator}"\n' + diffusion
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    pair = load_pair(str(path))
    grid = {"pairs": [str(path)], "lengths": [LENGTH], "steps": (STEPS,), "prompt_lengths": [PROMPT]}
    suite = checked_suite({"name": "tiny", "grid": [grid | settings | changes]}, "tiny")
    (pairing,) = expand(suite, {str(path): pair}, "cpu")
    return suite, pair, list(pairing.cells)


def opened(pair: Pair, cells: list[Cell]) -> Worker:
    worker = Worker()
    side, other = (pair.diffusion, pair.ar) if cells[0].side == "diffusion" else (pair.ar, pair.diffusion)
    worker.load(
        config=side.backbone.model_dump(), weights=side.weights, seed=0,
        dtype="float32", device="cpu", threads=1, prompts=None, tokenizer="embedded",
        partner={"config": other.backbone.model_dump(), "weights": other.weights},
        cells=[cell.model_dump() for cell in cells],
    )  # fmt: skip
    return worker


@pytest.mark.parametrize("name", CASES)
def test_a_system_runs_from_its_pair_to_a_sample(tmp_path: Any, name: str) -> None:
    _, pair, cells = planned(tmp_path, name)
    own = [cell for cell in cells if cell.side == "diffusion"]
    worker = opened(pair, own)
    for index, cell in enumerate(own):
        worker.open(id=str(index), cell=cell.model_dump())
    for round_index in range(2):  # cells of one pairing take turns
        for index, cell in enumerate(own):
            sample = worker.sample(id=str(index), order=0, round=round_index, prompt=3, seed=1, started_s=0.0)["sample"]
            expected = CASES[name][-1]
            if expected is not None:
                assert sample["nfe"] == expected, cell.key
            assert sample["output_tokens"] == LENGTH
            assert sample["ttft_s"] is not None, "position 0 was committed"
    reply = worker.close(id="0", flop_s=1e9, byte_s=1e9, counted=[0])
    assert reply["counters"]["model_flops"] > 0
    audited = "cache_logit_distance" in reply["counters"]
    assert audited == (own[0].cache in ("prefix", "dual") and own[0].generator != "speculative")
    assert reply["timeline"]["forwards"]


@pytest.mark.parametrize("name", ["mdlm ddpm", "llada", "diffusion-gemma"])
def test_the_ar_side_of_every_family_runs(tmp_path: Any, name: str) -> None:
    _, pair, cells = planned(tmp_path, name)
    own = [cell for cell in cells if cell.side == "ar"]
    worker = opened(pair, own)
    worker.open(id="a", cell=own[0].model_dump())
    sample = worker.sample(id="a", order=0, round=0, prompt=3, seed=1, started_s=0.0)["sample"]
    assert sample["nfe"] == sample["output_tokens"] == LENGTH


def test_a_flag_reaches_the_cell(tmp_path: Any) -> None:
    suite, pair, _ = planned(tmp_path, "fast-dllm")
    options = RunOptions(caches=("dual",), threshold=0.8, decode=("draw=gumbel64",))
    (pairing,) = expand(overridden(suite, options), {suite.grid[0].pairs[0]: pair}, "cpu")
    (cell,) = [cell for cell in pairing.cells if cell.side == "diffusion"]
    assert cell.cache == "dual"
    assert cell.decode.threshold == 0.8
    assert cell.decode.draw == "gumbel64"
    assert "cache=dual" in cell.key
    assert "threshold=0.8" in cell.key
    assert "schedule=even" in cell.key
