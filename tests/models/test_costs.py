"""FLOPs and bytes: by hand for a tiny shape, by counting a mask, and against torch's own FLOP counter."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.config import Attention, BackboneConfig
from dlmbench.models.costs import Cost, attended_pairs, forward_cost

TINY: dict[str, Any] = {
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
CONFIG = BackboneConfig(**TINY)


def test_flops_by_hand() -> None:
    cost = forward_cost(CONFIG, rows=2, q_len=3, kv_len=5, logit_rows=2, mask="causal", dtype="float32")
    # A layer's matrices hold 384 + 288 = 672 weights (see test_config): 2 x 672 FLOPs a token, 6 tokens, 2 layers.
    matrices = 2 * 672 * 6 * 2
    # The queries at positions 2, 3, 4 see 3 + 4 + 5 = 12 keys, in 2 rows. A pair costs a dot product and a weighted sum
    # of 4 dimensions in each of 4 heads: 2 x 2 x 16 = 64 FLOPs, in 2 layers.
    attention = 64 * 12 * 2 * 2
    # Two rows of logits, each 8 x 10.
    head = 2 * 80 * 2
    assert cost.flops == matrices + attention + head == 16128 + 3072 + 320


def test_bytes_by_hand() -> None:
    shape = {"rows": 2, "q_len": 3, "kv_len": 5, "logit_rows": 2, "mask": "causal"}
    cost = forward_cost(CONFIG, **shape, dtype="float32", kv_dtype="bfloat16")
    weights = 4 * 1384  # all but embedding and head, see test_config
    head = 4 * 80
    embedding = 4 * 6 * 8  # six rows looked up
    kv = 64 * 2 * (5 + 3)  # 2 x 8 x 2 layers x 2 B a token; 2 rows read 5 and write 3
    logits = 4 * 2 * 10
    assert cost.bytes == weights + head + embedding + kv + logits == 5536 + 320 + 192 + 1024 + 80
    # The cache takes the weights' dtype unless told otherwise: twice the bytes.
    assert forward_cost(CONFIG, **shape, dtype="float32").bytes == cost.bytes + 1024


def test_no_logits_leave_the_head_unread() -> None:
    shape = {"rows": 1, "q_len": 4, "kv_len": 4, "mask": "bidirectional", "dtype": "float32"}
    none, one = (forward_cost(CONFIG, **shape, logit_rows=rows) for rows in (0, 1))
    assert one.flops - none.flops == 2 * 80
    assert one.bytes - none.bytes == 4 * (80 + 10)


def test_the_floor_is_the_slower_of_the_two_resources() -> None:
    cost = Cost(flops=600.0, bytes=100.0)
    assert cost.floor_s(flop_s=200.0, byte_s=100.0) == 3.0
    assert cost.floor_s(flop_s=600.0, byte_s=50.0) == 2.0


def sees(mask: Attention, query: int, key: int, block_length: int) -> bool:
    """The definition of the three masks."""
    if mask == "bidirectional":
        return True
    return key <= query if mask == "causal" else key // block_length <= query // block_length


@given(
    q_len=st.integers(1, 12),
    past=st.integers(0, 12),
    block_length=st.integers(1, 9),
    mask=st.sampled_from(["causal", "bidirectional", "block_causal"]),
)
def test_attended_pairs_count_the_mask(q_len: int, past: int, block_length: int, mask: Attention) -> None:
    kv_len = past + q_len
    pairs = itertools.product(range(past, kv_len), range(kv_len))
    expected = sum(sees(mask, query, key, block_length) for query, key in pairs)
    assert attended_pairs(q_len, kv_len, mask, block_length) == expected


@given(prompt=st.integers(1, 20), length=st.integers(1, 20), rows=st.integers(1, 3))
def test_decoding_with_a_cache_does_the_work_of_one_causal_forward(prompt: int, length: int, rows: int) -> None:
    """Prefill and decode steps compute each position once, so their FLOPs are those of one forward over them all."""
    calls = [(prompt, prompt)] + [(1, prompt + i) for i in range(1, length)]
    decoded = sum(
        forward_cost(CONFIG, rows=rows, q_len=q, kv_len=kv, logit_rows=rows, mask="causal", dtype="float32").flops
        for q, kv in calls
    )
    positions = prompt + length - 1
    whole = forward_cost(
        CONFIG, rows=rows, q_len=positions, kv_len=positions, logit_rows=rows * length, mask="causal", dtype="float32"
    )
    assert decoded == whole.flops


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"tie_word_embeddings": True, "qk_norm": True},
        {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8},
    ],
)
def test_flops_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    config = BackboneConfig(**(TINY | changes))
    network = Backbone(config)
    network.rotary(16)
    ids = torch.zeros((2, 16), dtype=torch.int64)
    # The math backend: its matrix products are counted one by one, so that the counter has no formula of its own.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.logits(network.trunk(ids, mask="bidirectional")[:, :5])
    expected = network.forward_cost("target", 2, 16, 16, 10, "bidirectional").flops
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_a_generator_counts_its_cache_in_its_own_dtype() -> None:
    network = Backbone(CONFIG)
    call = ("target", 2, 1, 9, 2, "causal")
    wide = Autoregressive(network).forward_cost(*call)
    narrow = Autoregressive(network, kv_dtype=torch.bfloat16).forward_cost(*call)
    assert narrow.flops == wide.flops
    # 2 rows read 9 tokens and write one, each 2 x 8 x 2 layers values, now 2 B less a value.
    assert wide.bytes - narrow.bytes == 2 * (9 + 1) * 32 * 2
