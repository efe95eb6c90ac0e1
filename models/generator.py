"""What a generator is: a request in, tokens out, and every forward and commit announced while it happens.

An observer is told without a host synchronisation. `forward` is a context manager around the launch of one network
evaluation; `write` is called after the sampling that follows. A generator that keeps to this protocol can be measured,
whether it is one of ours or a user's:

    class Mine:
        side = "ar"
        def prepare(self, shape, settings): ...
        def generate(self, request, observer):
            for i in range(request.length):
                with observer.forward("target", "decode", rows, 1, i + 1, rows, "causal"):
                    logits = ...
                ids = logits.argmax(-1, keepdim=True)
                observer.write(None, ids, i, offset=i)
            return tokens
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .. import InputError
from .costs import Cost

# Below this, logits divided by the temperature leave float32.
MIN_TEMPERATURE = 1e-4

Side = Literal["ar", "diffusion"]
Phase = Literal["prefill", "decode", "denoise", "cache_refresh", "encode", "draft", "verify"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What `prepare` may know of the requests to come: sizes, never prompt ids. `length` counts new tokens per row."""

    batch: int
    prompt_length: int
    length: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Decode settings of a cell. `steps` and `block_length` are None for AR; `natural` stops at EOS."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    steps: int | None = None
    block_length: int | None = None
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    length_policy: Literal["fixed", "natural"] = "fixed"

    def __post_init__(self) -> None:
        if self.temperature < 0 or 0 < self.temperature < MIN_TEMPERATURE:
            raise InputError(f"temperature {self.temperature:g}: expected 0 (greedy) or at least {MIN_TEMPERATURE:g}")
        for name in ("steps", "block_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: expected at least 1")


@dataclass(frozen=True, slots=True)
class Request:
    """One generation: `prompt_ids` [B, P] int64 on the device, `length` new tokens per row, a seed for all draws."""

    prompt_ids: Tensor
    length: int
    settings: Settings
    seed: int

    @property
    def shape(self) -> Shape:
        return Shape(self.prompt_ids.shape[0], self.prompt_ids.shape[1], self.length)

    def random(self) -> torch.Generator:
        """A fresh stream of this request's random numbers, on the request's device."""
        return torch.Generator(self.prompt_ids.device).manual_seed(self.seed)


class Observer(Protocol):
    """Told of forwards and writes as they are launched. It must not synchronise, and must be cheap."""

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> AbstractContextManager[object]:
        """Announce one evaluation of `network` ("target" or "draft") on [rows, q_len] new positions."""
        ...

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        """Announce tokens written to output columns `offset` … `offset + n - 1` of every row.

        `token_ids` [B, n] and `row_mask` [B, n] bool (None: all of them) are device tensors that the generator will not
        change afterwards. `committed` False says that the algorithm may still revise these positions.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Turns requests into tokens. One instance serves every shape that it has been prepared for, one at a time."""

    side: Side

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Allocate, compile and capture for requests of `shape`; raises InputError where it cannot serve them."""
        ...

    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Generate tokens [B, L] int64 on the device; columns after a row's EOS (policy `natural`) are undefined."""
        ...


@runtime_checkable
class Costed(Protocol):
    """A generator whose forwards have a known analytic cost; without it, FLOP and byte metrics are null."""

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Work of one announced forward."""
        ...
