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

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .. import InputError
from .costs import Cost
from .draws import Draws, make_draws

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
    """Decode settings of a cell. `steps` and `block_length` are None for AR; `natural` stops at EOS.

    What a system does not know is refused by its `prepare`; None is the system's own default.

    - `sampler`: the system's name of its decode rule (`ddpm_cache`, `entropy`, `low_confidence_dynamic`, …).
    - `cache`: keys and values of earlier forwards that are used again: `none`, `prefix`, `dual` (Fast-dLLM; both
      approximate) or `kv` (block diffusion; exact).
    - `threshold`, `factor`, `entropy_bound`: how many positions a step commits depends on the data (confidence above a
      threshold; Fast-dLLM's factor rule; an entropy budget).
    - `commit_schedule`: instead, how many each step commits, recorded from such a rule: row -> step -> count.
    - `cfg_scale`: classifier-free guidance; a forward then has twice the rows.
    - `position_temperature`: Dream's `alg_temp`, randomness in which positions are committed.
    - `epsilon`: where the time grid ends.
    - `draw`: `exact` inverse CDF, or the Gumbel race of the published code on uniforms of that precision (see `draws`).
    - `suppress_mask`: the mask token is never predicted. The published samplers leave it possible; a position that
      predicts it is denoised again.
    - `idle_steps`: `skip` leaves out a step of the published loop that commits nothing; `run` pays for its forward.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    steps: int | None = None
    block_length: int | None = None
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    length_policy: Literal["fixed", "natural"] = "fixed"
    sampler: str | None = None
    cache: Literal["none", "prefix", "dual", "kv"] | None = None
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    commit_schedule: tuple[tuple[int, ...], ...] | None = None
    cfg_scale: float = 0.0
    position_temperature: float = 0.0
    epsilon: float | None = None
    draw: Literal["exact", "gumbel64", "gumbel32"] = "exact"
    suppress_mask: bool = True
    idle_steps: Literal["skip", "run"] = "skip"

    def __post_init__(self) -> None:
        if self.temperature < 0 or 0 < self.temperature < MIN_TEMPERATURE:
            raise InputError(f"temperature {self.temperature:g}: expected 0 (greedy) or at least {MIN_TEMPERATURE:g}")
        for name in ("steps", "block_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: expected at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold {self.threshold:g}: expected a probability, 0 to 1")
        for name in ("factor", "entropy_bound", "epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} {value:g}: expected a positive number")
        if self.epsilon is not None and self.epsilon > 0.99:
            raise InputError(f"epsilon {self.epsilon:g}: the time grid ends there; expected at most 0.99, below 1")
        for name in ("cfg_scale", "position_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name):g}: expected 0 (off) or more")

    def refuse(self, system: str, *known: str) -> None:
        """Raise InputError for a setting that is set, though `system` does not know it. `known` names those it does."""
        for name in _SPECIAL:
            default = type(self).__dataclass_fields__[name].default
            if name not in known and getattr(self, name) not in (default, "none"):
                fits = ", ".join(entry for entry in _SPECIAL if entry in known) or "none of these"
                raise InputError(f"{name} {getattr(self, name)!r}: {system} does not know it; it knows {fits}")


# Settings that only some systems know.
_SPECIAL = (
    "sampler", "cache", "threshold", "factor", "entropy_bound", "commit_schedule", "cfg_scale", "position_temperature",
    "epsilon", "draw", "suppress_mask", "idle_steps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """One generation: `prompt_ids` [B, P] int64 on the device, `length` new tokens per row, a seed for all draws.

    `prompt_mask` [B, P] bool marks the real tokens of prompts padded on the left (None: all). `draws` replays recorded
    draws in place of the seed's.
    """

    prompt_ids: Tensor
    length: int
    settings: Settings
    seed: int
    prompt_mask: Tensor | None = None
    draws: Draws | None = None

    @property
    def shape(self) -> Shape:
        return Shape(self.prompt_ids.shape[0], self.prompt_ids.shape[1], self.length)

    def random(self) -> torch.Generator:
        """A fresh stream of this request's random numbers, on the request's device."""
        return torch.Generator(self.prompt_ids.device).manual_seed(self.seed)

    def drawing(self) -> Draws:
        """Where this request's draws come from."""
        return self.draws or make_draws(self.settings.draw, self.random())


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


class Silent:
    """An observer that keeps nothing: for generations that nobody measures."""

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> AbstractContextManager[object]:
        return nullcontext()

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None: ...


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
class Promising(Protocol):
    """A generator whose number of forwards is known before it runs: a sample that differs did other work."""

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """Forwards of the target network under the policy `fixed`; None where they depend on the data or the draws.

        Raises InputError for whatever `prepare` would refuse, without its work: a run asks this before it begins.
        """
        ...


@runtime_checkable
class Audited(Protocol):
    """A generator with an approximate cache, which can say what error it makes."""

    def audit(self, request: Request) -> dict[str, float]:
        """Generate once more, comparing each cached forward with the exact one; for outside timed samples.

        `cache_logit_distance` is the root mean square difference over the standard deviation of the exact logits,
        `cache_argmax_changed` the share of candidate positions with another first choice, `cache_tokens_changed` the
        share of tokens that differ from those of the same generation without a cache.
        """
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """What a prepared generator holds in memory from one generation to the next; tensors may share their memory.

    - `weights`: parameters and buffers of its networks, and every layout that it keeps of them.
    - `kv`: its caches of keys and values, as allocated; `grown_b`: bytes that a cache comes to which grows in each
      generation and goes with it.
    - `logits_b`: bytes of the vocabulary logits of one position.
    """

    weights: tuple[Tensor, ...]
    kv: tuple[Tensor, ...]
    logits_b: int
    grown_b: int = 0


@runtime_checkable
class Holding(Protocol):
    """A generator that says what it holds; without it, its memory is known as a whole only."""

    def held(self) -> Held | None:
        """What is held since `prepare`; None where the generator cannot tell."""
        ...


@runtime_checkable
class Costed(Protocol):
    """A generator whose forwards have a known analytic cost; without it, FLOP and byte metrics are null."""

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Work of one announced forward."""
        ...
