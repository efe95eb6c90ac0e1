"""What a generation holds beside its weights: counts by hand, and what torch's CPU allocator reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dlmbench.models.architecture import Config
from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.footprint import (
    forward_bytes,
    kv_cache_bytes,
    score_bytes,
    single_row_layout_bytes,
    transformers_forward_bytes,
)
from dlmbench.models.gemma_config import GemmaConfig
from dlmbench.models.linear import Linear
from dlmbench.models.weights import random_network

LLAMA = BackboneConfig(
    vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
)  # fmt: skip
DIT = DiTConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
GEMMA = GemmaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, global_head_dim=16, num_global_key_value_heads=1, sliding_window=4,
    num_experts=4, top_k_experts=2, moe_intermediate_size=8,
)  # fmt: skip


def test_forwards_by_hand() -> None:
    # 3 rows of 5 positions; 3 (64 + 64 + 32 + 176) = 1008 numbers each, and 16 x 64.
    assert forward_bytes(LLAMA, 3, 5, "float32") == 15 * 1008 * 4
    assert forward_bytes(DIT, 3, 5, "bfloat16") == 15 * 1024 * 2
    # 4 x 64 + 3 x 176 numbers; 7 x 16 and, for 2 experts each, 32 in the dtype and 32 in float32.
    assert transformers_forward_bytes(LLAMA, 3, 5, "bfloat16") == 15 * 784 * 2
    assert transformers_forward_bytes(GEMMA, 3, 5, "bfloat16") == 15 * (112 * 2 + 2 * 32 * (2 + 4))
    assert score_bytes(LLAMA, 3, 5, 7, "float32") == 3 * 3 * 4 * 5 * 7 * 4


def test_caches_by_hand() -> None:
    # 2 layers x keys and values x 2 heads of 16.
    assert kv_cache_bytes(LLAMA, 3, 10, "bfloat16") == 3 * 10 * 2 * 2 * 32 * 2
    # Five sliding layers keep 4 positions of 2 x 2 x 8 numbers, a full one all 10 of 2 x 1 x 16.
    assert kv_cache_bytes(GEMMA, 3, 10, "bfloat16") == 3 * 2 * (5 * 4 * 32 + 10 * 32)
    # Within its window a sliding layer keeps all.
    assert kv_cache_bytes(GEMMA, 3, 2, "bfloat16") == 3 * 2 * (5 * 2 * 32 + 2 * 32)


@pytest.mark.parametrize("config", [LLAMA, DIT])
def test_layouts_for_single_rows_are_as_large_as_those_that_are_made(config: Config) -> None:
    network = random_network(config, 0, torch.float32, "cpu")
    network.favour_single_rows(True)
    made = [m.transposed for m in network.modules() if isinstance(m, Linear) and m.transposed is not None]
    assert single_row_layout_bytes(config) == sum(t.numel() * 4 for t in made) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [LLAMA, DIT])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_a_forward_holds_what_the_allocator_reports(config: Config, dtype: torch.dtype, mask: str) -> None:
    network = random_network(config, 0, dtype, "cpu")
    network.rotary(64)
    ids = torch.zeros((4, 64), dtype=torch.int64)
    seen = widest(lambda: network.trunk(ids, mask=mask))  # type: ignore[arg-type]
    assert forward_bytes(config, 4, 64, str(dtype).removeprefix("torch.")) == pytest.approx(seen, rel=0.05)


def widest(work: Callable[[], object]) -> int:
    """The most bytes that `work` has live at once, by the allocator's own reports to the profiler."""
    with torch.inference_mode():
        work()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            kept = work()
    del kept
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
