"""Which of the field's systems a checkpoint belongs to, read from its `config.json`, and what follows from that.

A config must name its system and hold every field that the network depends on: a diffusion checkpoint with a field left
out is refused, since the classes' own defaults are not the published models' (see each `_read`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from .. import InputError
from .config import BackboneConfig
from .dit_config import DiTConfig
from .gemma_config import CAUSAL, CAUSAL_TEXT, DIFFUSION, GemmaConfig
from .gemma_hf import gemma_from_hf
from .hf_config import ARCHITECTURES, first_token, from_hf, read_json

Layout = Literal["hf", "llada", "dit"]
Config = BackboneConfig | DiTConfig | GemmaConfig
_C = TypeVar("_C", BackboneConfig, DiTConfig)


@dataclass(frozen=True, slots=True)
class System:
    """A checkpoint's system by its model type, its shape, the naming of its tensors, the generator that it is for."""

    name: str
    config: Config
    layout: Layout
    generator: str


def read_system(path: Path) -> System:
    """The system of the checkpoint in folder `path`. Raises InputError for a config that is none of ours."""
    source = path / "config.json"
    if not source.is_file():
        raise InputError(f"{source}: not found, expected the config of a Hugging Face checkpoint; check the folder")
    raw = read_json(source)
    generation = path / "generation_config.json"
    if generation.is_file():
        eos = read_json(generation).get("eos_token_id")
        if eos is not None:
            raw = raw | {"eos_token_id": first_token(eos, f"{generation}: eos_token_id")}
    return system_of(raw, str(source))


def system_of(raw: Mapping[str, Any], source: str) -> System:
    """The system that a config describes; `source` names its file in errors."""
    name = raw.get("model_type")
    if name is None and "tokens" in raw and "graph" in raw:
        name = "sedd"  # a PyTorchModelHubMixin writes its constructor's argument, without a model type
    if isinstance(name, str) and name in _READERS:
        config, layout, generator = _READERS[name](raw, source)
        return System(str(name).lower(), config, layout, generator)
    if name is not None and (not isinstance(name, str) or name not in ARCHITECTURES):
        known = ", ".join((*ARCHITECTURES, *_READERS))
        raise InputError(
            f"{source}: model_type is {name!r}, expected one of {known}; choose a checkpoint of one of these"
        )
    return System(str(name or "llama"), from_hf(raw, source), "hf", "masked-diffusion")


def read_config(path: Path) -> Config:
    """The shape of the checkpoint in folder `path` (see `read_system`)."""
    return read_system(path).config


def _read_dream(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    _required(raw, ("mask_token_id", "num_key_value_heads", "rope_theta", "rms_norm_eps"), source)
    config = from_hf({**raw, "model_type": "qwen2", "architectures": [ARCHITECTURES["qwen2"]]}, source)
    return config.model_copy(update={"shifted_logits": True}), "hf", "dream"


def _read_sdar(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    wanted = ("mask_token_id", "num_key_value_heads", "rope_theta", "rms_norm_eps", "head_dim")
    _required(raw, wanted, source)
    config = from_hf({**raw, "model_type": "qwen3", "architectures": [ARCHITECTURES["qwen3"]]}, source)
    block = raw.get("block_size", raw.get("block_length", 4))
    return _checked(BackboneConfig, config.model_dump() | {"block_size": block}, source), "hf", "sdar"


_LLADA_FIXED: dict[str, tuple[object, ...]] = {
    "activation_type": ("silu", "swiglu"),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "block_type": ("llama",),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "multi_query_attention": (None, False),
    "rope": (True,),
    "scale_logits": (False,),
}


def _read_llada(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    sizes = ("d_model", "n_heads", "n_layers", "mlp_hidden_size", "vocab_size", "mask_token_id", "rope_theta")
    # The class's own defaults are another network: LayerNorm, no RoPE, biases.
    kinds = ("rms_norm_eps", "weight_tying", "layer_norm_type", "rope", "block_type", "include_bias")
    _required(raw, (*sizes, *kinds), source)
    for key, allowed in _LLADA_FIXED.items():
        if key in raw and raw[key] not in allowed:
            raise InputError(
                f"{source}: {key} is {raw[key]!r}, expected {allowed[0]!r}: LLaDA's network has no other here; "
                "choose another checkpoint"
            )
    heads = raw["n_heads"]
    kv_heads = raw.get("n_kv_heads")
    hidden = raw["d_model"]
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1 or hidden % heads:
        raise InputError(f"{source}: d_model {hidden!r} is not a multiple of n_heads {heads!r}; correct the config")
    # Rows of the embedding may exceed the vocabulary: logits have as many columns as the embedding has rows.
    rows = raw.get("embedding_size") or raw["vocab_size"]
    fields = {
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": raw["mlp_hidden_size"],
        "num_hidden_layers": raw["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads,
        "head_dim": hidden // heads,
        "rms_norm_eps": raw["rms_norm_eps"],
        "rope_theta": raw["rope_theta"],
        "max_position_embeddings": raw.get("max_sequence_length", 4096),
        "tie_word_embeddings": raw["weight_tying"],
        "mask_token_id": raw["mask_token_id"],
        "eos_token_id": first_token(raw.get("eos_token_id"), f"{source}: eos_token_id"),
    }
    return _checked(BackboneConfig, fields, source), "llada", "llada"


def _read_dit(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    """MDLM and BD3LM under their Hugging Face names. `cond_dim` has no default: the class's own is not the models'."""
    wanted = ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "time_conditioning")
    blocked = raw["model_type"] == "bd3lm"
    _required(raw, (*wanted, "block_size") if blocked else wanted, source)
    if blocked and raw.get("causal", False):
        raise InputError(f"{source}: causal is true, expected false: block diffusion attends block-causally")
    fields = {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_dim"],
        "num_hidden_layers": raw["n_blocks"],
        "num_attention_heads": raw["n_heads"],
        "cond_dim": raw["cond_dim"],
        "max_position_embeddings": raw["model_length"],
        "adaln": raw.get("adaln", True),
        "time_conditioning": raw["time_conditioning"],
        "block_size": raw["block_size"] if blocked else None,
        "eos_token_id": first_token(raw.get("eos_token_id"), f"{source}: eos_token_id"),
    }
    return _checked(DiTConfig, fields, source), "dit", str(raw["model_type"])


def _read_sedd(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    """SEDD's hydra tree: sections `model`, `graph`, `noise`, and the number of `tokens` without the mask."""
    _required(raw, ("tokens", "graph", "noise", "model"), source)
    sections = {name: raw[name] for name in ("graph", "noise", "model")}
    for name, section in sections.items():
        if not isinstance(section, Mapping):
            raise InputError(f"{source}: {name} is {section!r}, expected an object; correct the config")
    model, graph, noise = sections["model"], sections["graph"], sections["noise"]
    _required(model, ("hidden_size", "cond_dim", "length", "n_blocks", "n_heads", "scale_by_sigma"), f"{source}: model")
    _required(graph, ("type",), f"{source}: graph")
    _required(noise, ("type",), f"{source}: noise")
    tokens = raw["tokens"]
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise InputError(f"{source}: tokens is {tokens!r}, expected a number of tokens; correct the config")
    fields = {
        "vocab_size": tokens + (graph["type"] == "absorb"),
        "hidden_size": model["hidden_size"],
        "num_hidden_layers": model["n_blocks"],
        "num_attention_heads": model["n_heads"],
        "cond_dim": model["cond_dim"],
        "max_position_embeddings": model["length"],
        "time_conditioning": True,
        "parameterization": "score",
        "scale_by_sigma": model["scale_by_sigma"],
        "graph": graph["type"],
        "noise": noise["type"],
        "eos_token_id": first_token(raw.get("eos_token_id"), f"{source}: eos_token_id"),
        **{name: noise[name] for name in ("sigma_min", "sigma_max") if name in noise},
    }
    return _checked(DiTConfig, fields, source), "dit", "sedd"


def _read_gemma(raw: Mapping[str, Any], source: str) -> tuple[Config, Layout, str]:
    generator = "diffusion-gemma" if raw["model_type"] == DIFFUSION else "hf"
    return gemma_from_hf(raw, source), "hf", generator


_READERS: dict[Any, Callable[[Mapping[str, Any], str], tuple[Config, Layout, str]]] = {
    "llada": _read_llada,
    "Dream": _read_dream,
    "sdar": _read_sdar,
    "mdlm": _read_dit,
    "bd3lm": _read_dit,
    "sedd": _read_sedd,
    DIFFUSION: _read_gemma,
    CAUSAL: _read_gemma,
    CAUSAL_TEXT: _read_gemma,
}


def _required(raw: Mapping[str, Any], keys: tuple[str, ...], source: str) -> None:
    missing = [key for key in keys if raw.get(key) is None]
    if missing:
        raise InputError(
            f"{source}: {missing[0]} is missing, and this system has no default for it; correct the config"
        )


def _checked(kind: type[_C], fields: dict[str, Any], source: str) -> _C:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: {f'{key}: ' if key else ''}{message}; correct the config") from None
