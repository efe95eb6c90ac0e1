"""Makes a generator from its name and what it is to run on: shape, weights, dtype, device, engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from .. import InputError
from .autoregressive import Autoregressive
from .backbone import Backbone
from .checkpoints import load_backbone, resolve
from .config import BackboneConfig
from .engines import check_engine
from .generator import Generator
from .hf_generate import HFGenerate
from .masked_diffusion import MaskedDiffusion
from .names import AR, HF_DYNAMIC, HF_STATIC, MASKED_DIFFUSION
from .plugins import load_factory
from .weights import random_backbone


@dataclass(slots=True)
class Context:
    """What a factory may build on. `network()` makes or loads the pair's backbone once and keeps it.

    `weights` is "random" or a checkpoint (folder or hub id); `seed` draws random weights. `built` keeps generators
    that several cells share.
    """

    config: BackboneConfig
    weights: str
    dtype: torch.dtype
    device: str
    seed: int
    engine: str = "eager"
    kv_dtype: torch.dtype | None = None
    built: dict[tuple[str | None, ...], Generator] = field(default_factory=dict)
    _networks: list[Backbone] = field(default_factory=list)

    def network(self) -> Backbone:
        """The pair's backbone, on the device, in evaluation mode."""
        if not self._networks:
            if self.weights == "random":
                self._networks.append(random_backbone(self.config, self.seed, self.dtype, self.device))
            else:
                self._networks.append(load_backbone(resolve(self.weights), self.dtype, self.device))
        return self._networks[0]

    def for_cell(self, engine: str, kv_dtype: str | None) -> Context:
        """The same network under another engine and cache dtype."""
        return replace(self, engine=engine, kv_dtype=None if kv_dtype is None else getattr(torch, kv_dtype))


def build(name: str, context: Context) -> Generator:
    """The generator called `name`, on this context. Raises InputError where it cannot run there."""
    check_engine(context.engine, context.device)
    if name == AR:
        return Autoregressive(context.network(), engine=context.engine, kv_dtype=context.kv_dtype)
    if name == MASKED_DIFFUSION:
        return MaskedDiffusion(context.network(), engine=context.engine)
    kind, _, reference = name.partition(":")
    if kind in (HF_DYNAMIC, HF_STATIC):
        cache: Literal["dynamic", "static"] = "dynamic" if kind == HF_DYNAMIC else "static"
        if reference:
            return HFGenerate.from_path(reference, context.dtype, context.device, cache)
        return HFGenerate.from_backbone(context.network(), cache)
    made = load_factory(name)(context)
    if not isinstance(made, Generator):
        raise InputError(
            f"generator {name!r}: its factory returned {type(made).__name__}, which lacks prepare, generate or side"
        )
    return made
