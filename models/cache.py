"""A static key-value cache: allocated once for a shape, written in place, read through views of its live part."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import BackboneConfig
from .dit_config import DiTConfig


class KVCache:
    """Keys and values of every layer, each [B, Hkv, S, D], S the longest sequence of the shape."""

    __slots__ = ("capacity", "keys", "values")

    def __init__(
        self,
        config: BackboneConfig | DiTConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        # Zeroed rather than empty: static engines read the dead part too, and 0 x NaN would be NaN.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.capacity = capacity

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All keys, then all values."""
        return (*self.keys, *self.values)

    def append(
        self, layer: int, start: int, key: Tensor, value: Tensor, live: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Write key and value [B, Hkv, q, D] at positions `start`…; return the first `live` slots [B, Hkv, live, D].

        `live` defaults to start + q: everything up to here. More of them are what earlier forwards left behind.
        """
        end = start + key.shape[2]
        if end > self.capacity:
            raise IndexError(f"position {end - 1} is past the cache's {self.capacity} slots")
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        live = end if live is None else live
        return keys[:, :, :live].to(key.dtype), values[:, :, :live].to(value.dtype)

    def place(self, layer: int, position: Tensor, key: Tensor, value: Tensor, live: int) -> tuple[Tensor, Tensor]:
        """Write q tokens' keys and values at `position` [q] (a device tensor); return the first `live` slots.

        For captured graphs, in which no shape may depend on the position: the caller masks slots past it.
        """
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, position, key.to(keys.dtype))
        values.index_copy_(2, position, value.to(values.dtype))
        return keys[:, :, :live].to(key.dtype), values[:, :, :live].to(value.dtype)
