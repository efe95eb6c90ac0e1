"""A static cache holds what was written where it was written, whichever way it is written."""

import torch
from torch import Tensor

from dlmbench.models.cache import KVCache
from dlmbench.models.config import BackboneConfig

CONFIG = BackboneConfig(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)


def cache(dtype: torch.dtype = torch.float32, capacity: int = 6) -> KVCache:
    return KVCache(CONFIG, 3, capacity, dtype, "cpu")


def entries(length: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, length, 4, generator=random), torch.randn(3, 2, length, 4, generator=random)


def test_what_is_appended_is_read_back_in_order() -> None:
    kept = cache()
    (k1, v1), (k2, v2) = entries(3, 0), entries(1, 1)
    keys, values = kept.append(0, 0, k1, v1)
    assert torch.equal(keys, k1)
    assert torch.equal(values, v1)
    keys, values = kept.append(0, 3, k2, v2)
    assert torch.equal(keys, torch.cat([k1, k2], dim=2))
    assert torch.equal(values, torch.cat([v1, v2], dim=2))


def test_layers_do_not_share() -> None:
    kept = cache()
    kept.append(0, 0, *entries(2, 0))
    keys, values = kept.append(1, 0, *entries(1, 1))
    assert torch.equal(keys, entries(1, 1)[0])
    assert torch.equal(values, entries(1, 1)[1])


def test_appending_again_overwrites_and_shortens() -> None:
    """A new request starts at 0: nothing of the last one is live."""
    kept = cache()
    kept.append(0, 0, *entries(6, 0))
    keys, _ = kept.append(0, 0, *entries(2, 1))
    assert torch.equal(keys, entries(2, 1)[0])


def test_place_writes_what_append_writes_and_shows_as_many_slots_as_asked() -> None:
    appended, placed = cache(), cache()
    for kept in (appended, placed):
        kept.append(1, 0, *entries(3, 0))
    key, value = entries(1, 1)
    live_keys, live_values = appended.append(1, 3, key, value)
    keys, values = placed.place(1, torch.tensor([3]), key, value, 5)
    assert torch.equal(keys[:, :, :4], live_keys)
    assert torch.equal(values[:, :, :4], live_values)
    # Not yet written: finite, so that a mask's zero times it is zero.
    assert keys.shape[2] == values.shape[2] == 5
    assert torch.equal(keys[:, :, 4], torch.zeros(3, 2, 4))


def test_a_narrower_dtype_rounds_once_and_comes_back_in_the_networks() -> None:
    kept = cache(torch.bfloat16)
    key, value = entries(2, 0)
    keys, values = kept.append(0, 0, key, value)
    assert keys.dtype is values.dtype is torch.float32
    assert torch.equal(keys, key.bfloat16().float())
    assert torch.equal(values, value.bfloat16().float())
    one = entries(1, 1)
    keys, _ = kept.place(0, torch.tensor([2]), *one, 3)
    assert torch.equal(keys[:, :, 2:], one[0].bfloat16().float())
