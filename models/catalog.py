"""Makes a generator from its name and what it is to run on: shape, weights, dtype, device, engine."""

from __future__ import annotations

import importlib
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .. import InputError
from .architecture import Config
from .backbone import Backbone
from .checkpoints import load_network, resolve
from .diffusion_gemma import DiffusionGemma, gemma_twin
from .engines import check_engine
from .gemma_config import DIFFUSION, GemmaConfig
from .generator import Generator
from .hf_config import read_json
from .hf_generate import HFGenerate
from .names import (
    AR,
    BD3LM,
    BLOCK_DIFFUSION,
    DIFFUSION_GEMMA,
    DREAM,
    FAST_DLLM,
    GPT2,
    HF_DYNAMIC,
    HF_STATIC,
    LLADA,
    MASKED_DIFFUSION,
    MDLM,
    RANDOM,
    SDAR,
    SEDD,
    SPECULATIVE,
)
from .network import Network
from .plugins import load_factory
from .weights import empty_network, random_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """Where a network comes from: its shape, and "random" or a checkpoint (folder or hub id)."""

    config: Config
    weights: str

    def make(self, seed: int, dtype: torch.dtype, device: str) -> Network:
        """The network on the device, in evaluation mode; `seed` draws random weights."""
        if isinstance(self.config, GemmaConfig):
            raise InputError(_NOT_GEMMA)
        if self.weights == RANDOM:
            return random_network(self.config, seed, dtype, device)
        return load_network(resolve(self.weights), dtype, device)

    def outline(self, dtype: torch.dtype) -> Network:
        """The network's shapes, with no numbers and no memory (torch's device "meta")."""
        if isinstance(self.config, GemmaConfig):
            raise InputError(_NOT_GEMMA)
        return empty_network(self.config, dtype, "meta")


_NOT_GEMMA = "this generator cannot run Gemma's network; choose diffusion-gemma, hf or hf-static"


@dataclass(slots=True)
class Context:
    """What a factory may build on. `network()` makes or loads this side's network once and keeps it.

    `weights` is "random" or a checkpoint (folder or hub id); `seed` draws random weights. `partner` is the other side
    of the pair, for a generator that needs both. `built` keeps generators that several cells share. With `outline`
    networks have shapes and no numbers: enough to ask a generator what it refuses and promises (see `outlined`).
    """

    config: Config
    weights: str
    dtype: torch.dtype
    device: str
    seed: int
    engine: str = "eager"
    kv_dtype: torch.dtype | None = None
    partner: NetworkSource | None = None
    outline: bool = False
    built: dict[Hashable, Generator] = field(default_factory=dict)
    _networks: dict[NetworkSource, Network] = field(default_factory=dict)
    _gemmas: dict[NetworkSource, DiffusionGemma] = field(default_factory=dict)

    def network(self) -> Network:
        """This side's network, on the device, in evaluation mode."""
        return self._made(NetworkSource(self.config, self.weights))

    def partner_network(self) -> Network:
        """The other side's network; the same object where both sides have one shape and one source of weights."""
        return self._made(self.partner or NetworkSource(self.config, self.weights))

    def for_cell(self, engine: str, kv_dtype: str | None) -> Context:
        """The same networks under another engine and cache dtype."""
        return replace(self, engine=engine, kv_dtype=None if kv_dtype is None else getattr(torch, kv_dtype))

    def _made(self, source: NetworkSource) -> Network:
        if source not in self._networks:
            made = source.outline(self.dtype) if self.outline else source.make(self.seed, self.dtype, self.device)
            self._networks[source] = made
        return self._networks[source]


# Module and class of the generators that are made from one network, an engine and the cache's dtype.
_OF_A_NETWORK: dict[str, tuple[str, str, dict[str, Any]]] = {
    AR: ("autoregressive", "Autoregressive", {}),
    MASKED_DIFFUSION: ("masked_diffusion", "MaskedDiffusion", {}),
    LLADA: ("masked_diffusion", "MaskedDiffusion", {}),
    FAST_DLLM: ("fast_dllm", "FastDLLM", {}),
    DREAM: ("dream", "Dream", {}),
    MDLM: ("mdlm", "MDLM", {}),
    SEDD: ("sedd", "SEDD", {}),
    BD3LM: ("bd3lm", "BD3LM", {}),
    SDAR: ("sdar", "SDAR", {}),
    BLOCK_DIFFUSION: ("sdar", "SDAR", {"sampler": "low_confidence_static"}),
}


def build(name: str, context: Context) -> Generator:
    """The generator called `name`, on this context. Raises InputError where it cannot run there."""
    check_engine(context.engine, context.device)
    kind, _, reference = name.partition(":")
    if kind in _OF_A_NETWORK and not reference:
        module, attribute, options = _OF_A_NETWORK[kind]
        factory = getattr(importlib.import_module(f".{module}", __package__), attribute)
        made: Any = factory(context.network(), engine=context.engine, kv_dtype=context.kv_dtype, **options)
        return _checked(name, made)
    if name == GPT2:
        return HFGenerate.gpt2(context.seed, context.dtype, context.device)
    if name == DIFFUSION_GEMMA:
        return _diffusion_gemma(context)
    if name == SPECULATIVE:
        from .speculative import Speculative

        drafter, target = context.network(), context.partner_network()
        return Speculative(target, drafter, engine=context.engine, kv_dtype=context.kv_dtype)
    if kind in (HF_DYNAMIC, HF_STATIC):
        cache: Literal["dynamic", "static"] = "dynamic" if kind == HF_DYNAMIC else "static"
        if context.kv_dtype not in (None, context.dtype):
            raise InputError(f"kv_dtype: transformers keeps keys in the weights' dtype; leave it out for {name}")
        # transformers compiles its decode step on an accelerator only.
        compiled = context.engine == "compile" and cache == "static" and context.device.startswith("cuda")
        engine: Literal["eager", "compile"] = "compile" if compiled else "eager"
        if reference:
            return HFGenerate.from_path(reference, context.dtype, context.device, cache, engine=engine)
        if isinstance(context.config, GemmaConfig):
            return HFGenerate(_gemma_twin(context, context.config), cache=cache, engine=engine)
        network = context.network()
        if not isinstance(network, Backbone):
            raise InputError(f"generator {name!r}: transformers has no {type(network).__name__}; choose ar")
        return HFGenerate.from_backbone(network, cache, engine=engine)
    return _checked(name, load_factory(name)(context))


def outlined(name: str) -> bool:
    """Whether the generator called `name` can be built on a context in outline: from networks of ours alone."""
    return name in _OF_A_NETWORK or name == SPECULATIVE


def _diffusion_gemma(context: Context) -> DiffusionGemma:
    if not isinstance(context.config, GemmaConfig):
        raise InputError(f"generator {DIFFUSION_GEMMA!r} needs Gemma's network (family gemma); choose its pair")
    source = NetworkSource(context.config, context.weights)
    kept = context._gemmas.get(source)
    if kept is None:
        if context.weights != RANDOM:
            kept = DiffusionGemma.from_path(context.weights, context.dtype, context.device)
        else:
            config = context.config.model_copy(update={"self_conditioning": True})
            kept = DiffusionGemma.from_config(config, context.seed, context.dtype, context.device)
        context._gemmas[source] = kept
    return DiffusionGemma(kept.model, eos_id=kept.eos_id)


def _gemma_twin(context: Context, config: GemmaConfig) -> PreTrainedModel:
    """Gemma 4 on a checkpoint of its own, or on the very tensors of a DiffusionGemma encoder."""
    if context.weights == RANDOM or read_json(Path(context.weights) / "config.json").get("model_type") == DIFFUSION:
        return gemma_twin(_diffusion_gemma(context).model)
    model: PreTrainedModel = HFGenerate.from_path(context.weights, context.dtype, context.device).model
    return model


def _checked(name: str, made: object) -> Generator:
    if not isinstance(made, Generator):
        raise InputError(
            f"generator {name!r}: its factory returned {type(made).__name__}, which lacks prepare, generate or side"
        )
    return made
