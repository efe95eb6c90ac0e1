"""Attention against the definition in float64, for every way that `attend` may take."""

import pytest
import torch
from torch import Tensor

from dlmbench.models.attention import BACKENDS, attend, attention_backend, block_causal_mask, causal_mask


def naive(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v in float64, head h reading key-value head h // group; `visible` [q, kv] bool."""
    group = query.shape[1] // key.shape[1]
    out = torch.empty(query.shape, dtype=torch.float64)
    for head in range(query.shape[1]):
        q, k, v = query[:, head].double(), key[:, head // group].double(), value[:, head // group].double()
        scores = q @ k.transpose(1, 2) / query.shape[-1] ** 0.5
        out[:, head] = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v
    return out.float()


def operands(heads: int, kv_heads: int, q_len: int, kv_len: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, q_len, 8, generator=random)
    key, value = (torch.randn(2, kv_heads, kv_len, 8, generator=random) for _ in range(2))
    return query, key, value


HEADS = [(4, 4), (4, 2), (6, 2), (4, 1)]


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 7), (5, 5), (3, 7)])
def test_without_a_mask_every_key_counts(heads: int, kv_heads: int, q_len: int, kv_len: int) -> None:
    query, key, value = operands(heads, kv_heads, q_len, kv_len)
    everything = torch.ones(q_len, kv_len, dtype=torch.bool)
    torch.testing.assert_close(attend(query, key, value), naive(query, key, value, everything))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_causal_sees_the_lower_triangle(heads: int, kv_heads: int) -> None:
    query, key, value = operands(heads, kv_heads, 6, 6)
    expected = naive(query, key, value, torch.ones(6, 6, dtype=torch.bool).tril())
    torch.testing.assert_close(attend(query, key, value, causal=True), expected)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_hides_what_it_says(heads: int, kv_heads: int, additive: bool) -> None:
    query, key, value = operands(heads, kv_heads, 3, 7)
    visible = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    visible[:, 0] = True
    mask = torch.zeros(3, 7).masked_fill(~visible, -torch.inf) if additive else visible
    expected = naive(query, key, value, visible)
    torch.testing.assert_close(attend(query, key, value, mask=mask), expected)
    torch.testing.assert_close(attend(query, key, value, mask=mask.view(1, 1, 3, 7)), expected)


def test_inputs_may_be_views_of_a_fused_projection() -> None:
    fused = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(2))  # [B, q, H + 2 Hkv, D]
    query, key, value = (t.transpose(1, 2) for t in fused.split([4, 2, 2], dim=2))
    everything = torch.ones(5, 5, dtype=torch.bool)
    torch.testing.assert_close(attend(query, key, value), naive(query, key, value, everything))


def test_masks_by_hand() -> None:
    def rows(mask: Tensor) -> list[str]:
        return ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]

    cpu = torch.device("cpu")
    # Blocks are 01 | 23 | 4: a position sees its own block whole and all before it.
    assert rows(block_causal_mask(5, 5, 2, cpu)) == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]
    # The last two of five positions; blocks are 012 | 34, counted from position 0.
    assert rows(block_causal_mask(2, 5, 3, cpu)) == ["xxxxx", "xxxxx"]
    assert rows(block_causal_mask(3, 5, 3, cpu)) == ["xxx..", "xxxxx", "xxxxx"]
    assert rows(causal_mask(2, 4, cpu)) == ["xxx.", "xxxx"]


def test_a_backend_is_pinned_inside_its_block_only() -> None:
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    with attention_backend("math"):
        assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == (False, True)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == before
    with attention_backend("auto"):
        assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == before


@pytest.mark.parametrize("name", ["auto", "math"])
def test_backends_agree(name: str) -> None:
    assert name in BACKENDS
    query, key, value = operands(4, 2, 6, 6)
    expected = naive(query, key, value, torch.ones(6, 6, dtype=torch.bool).tril())
    with attention_backend(name):
        torch.testing.assert_close(attend(query, key, value, causal=True), expected)
