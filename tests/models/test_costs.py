"""FLOPs and bytes: by hand for a tiny shape, by counting a mask, and as laws that hold for every shape.

What torch's own counter says is in `test_costs_counted` (forwards) and `test_costs_generations` (whole generations).
"""

import itertools
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.config import Attention, BackboneConfig
from dlmbench.models.costs import Cost, attended_pairs, block_causal, forward_cost
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.gemma_config import GemmaConfig

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


def test_pairs_of_a_block_causal_mask_by_hand() -> None:
    # Positions 3 … 8 of 9 in blocks of 4: 3 sees 4; 4 to 7 see 8; 8, in a block that the text does not fill, sees 9.
    assert attended_pairs(6, 9, "block_causal", 4) == 4 + 4 * 8 + 9
    # A window of 6 that begins at position 0, of which only 5 are live: 4 x 4 pairs, and two queries that see all 5.
    assert attended_pairs(6, 5, "block_causal", 4) == 16 + 2 * 5


def test_pairs_are_a_closed_form() -> None:
    """So long a sequence that a loop over it would not end: n / b blocks of b queries, block i sees i b keys."""
    n, b = 10**15, 1000
    assert attended_pairs(n, n, "block_causal", b) == b * b * (n // b) * (n // b + 1) // 2
    assert attended_pairs(n, n, "causal") == n * (n + 1) // 2


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


def test_a_generator_counts_its_cache_in_its_own_dtype() -> None:
    network = Backbone(CONFIG)
    call = ("target", 2, 1, 9, 2, "causal")
    wide = Autoregressive(network).forward_cost(*call)
    narrow = Autoregressive(network, kv_dtype=torch.bfloat16).forward_cost(*call)
    assert narrow.flops == wide.flops
    # 2 rows read 9 tokens and write one, each 2 x 8 x 2 layers values, now 2 B less a value.
    assert wide.bytes - narrow.bytes == 2 * (9 + 1) * 32 * 2


# Laws, of every architecture

DIT = DiTConfig(vocab_size=10, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, cond_dim=4)
GEMMA = GemmaConfig(
    vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, global_head_dim=6, num_global_key_value_heads=1, sliding_window=6,
    num_experts=5, top_k_experts=2, moe_intermediate_size=3, self_conditioning=True,
)  # fmt: skip
CONFIGS = st.sampled_from([CONFIG, DIT, DIT.model_copy(update={"time_conditioning": True}), GEMMA])
SHAPES = st.fixed_dictionaries(
    {"rows": st.integers(1, 4), "q_len": st.integers(1, 9), "past": st.integers(0, 12), "logit_rows": st.integers(0, 9)}
)


def cost(config: Any, rows: int, q_len: int, past: int, logit_rows: int, mask: str) -> Cost:
    shape = {"rows": rows, "q_len": q_len, "kv_len": past + q_len, "logit_rows": logit_rows}
    return forward_cost(config, **shape, mask=mask, dtype="bfloat16")


@given(config=CONFIGS, shape=SHAPES, mask=st.sampled_from(["causal", "bidirectional"]))
def test_more_of_anything_costs_more(config: Any, shape: dict[str, int], mask: str) -> None:
    before = cost(config, **shape, mask=mask)
    for name in shape:
        after = cost(config, **shape | {name: shape[name] + 1}, mask=mask)
        assert after.flops > before.flops
        assert after.bytes > before.bytes


@given(config=CONFIGS, shape=SHAPES)
def test_bidirectional_attention_costs_no_less_and_moves_the_same(config: Any, shape: dict[str, int]) -> None:
    if config is GEMMA:  # its denoising has work of its own
        config = GEMMA.model_copy(update={"self_conditioning": False})
    causal, bidirectional = (cost(config, **shape, mask=mask) for mask in ("causal", "bidirectional"))
    assert causal.bytes == bidirectional.bytes
    assert (causal.flops < bidirectional.flops) == (shape["q_len"] > 1)


@given(shape=SHAPES, size=st.integers(1, 30))
def test_block_causal_lies_between(shape: dict[str, int], size: int) -> None:
    causal, blocks, whole = (
        cost(CONFIG, **shape, mask=mask).flops for mask in ("causal", block_causal(size), "bidirectional")
    )
    assert causal <= blocks <= whole
    assert cost(CONFIG, **shape, mask=block_causal(1)).flops == causal
    assert cost(CONFIG, **shape, mask=block_causal(30)).flops == whole


@given(config=CONFIGS, rows=st.integers(1, 4), first=st.integers(1, 12), second=st.integers(1, 12))
def test_a_prefill_in_two_parts_is_one(config: Any, rows: int, first: int, second: int) -> None:
    """FLOPs add up, but for the noise level, which each part would evaluate; bytes do not: weights are read twice."""
    level = 2 * getattr(config, "conditioning_products", 0)
    parts = [cost(config, rows, q_len, past, 0, "causal") for q_len, past in ((first, 0), (second, first))]
    whole = cost(config, rows, first + second, 0, 0, "causal")
    assert sum(part.flops for part in parts) == whole.flops + level
    assert sum(part.bytes for part in parts) > whole.bytes


@given(blocks=st.lists(st.integers(1, 4), min_size=1, max_size=4), size=st.integers(1, 5))
def test_block_causal_parts_that_end_with_blocks_add_up(blocks: list[int], size: int) -> None:
    past, total = 0, 0.0
    for count in blocks:
        total += cost(CONFIG, 1, count * size, past, 0, block_causal(size)).flops
        past += count * size
    assert total == cost(CONFIG, 1, past, 0, 0, block_causal(size)).flops


@given(shape=SHAPES, groups=st.sampled_from([2, 4]))
def test_grouped_queries_save_bytes_but_no_products_of_attention(shape: dict[str, int], groups: int) -> None:
    wide, narrow = (CONFIG.model_copy(update={"num_key_value_heads": heads}) for heads in (4, 4 // groups))
    # Per layer k and v projections of 8 x 4 for each head that is gone.
    weights = 2 * 2 * 8 * 4 * (4 - 4 // groups)
    before, after = (cost(config, **shape, mask="bidirectional") for config in (wide, narrow))
    assert before.flops - after.flops == 2 * weights * shape["rows"] * shape["q_len"]
    assert narrow.kv_bytes_per_token("bfloat16") * groups == wide.kv_bytes_per_token("bfloat16")
    moved = shape["rows"] * (shape["past"] + 2 * shape["q_len"])
    saved = wide.kv_bytes_per_token("bfloat16") - narrow.kv_bytes_per_token("bfloat16")
    assert before.bytes - after.bytes == 2 * weights + moved * saved


@given(config=CONFIGS, shape=SHAPES, mask=st.sampled_from(["causal", "bidirectional"]))
def test_no_forward_moves_less_than_the_weights_that_it_needs(config: Any, shape: dict[str, int], mask: str) -> None:
    needed = config.non_embedding_parameters - getattr(config, "conditioning_parameters", 0)
    if config is GEMMA:  # the experts of one token, and no self-conditioning in an encoder
        needed -= 3 * (5 - 2) * config.expert_parameters + config.self_conditioning_parameters
    assert cost(config, **shape, mask=mask).bytes > 2 * needed
