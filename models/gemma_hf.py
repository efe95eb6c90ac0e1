"""Gemma 4's and DiffusionGemma's `config.json` to `GemmaConfig` and back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from .. import InputError
from .gemma_config import CAUSAL, CAUSAL_TEXT, DIFFUSION, GemmaConfig
from .hf_config import first_token

# The class cannot do without a vision tower, and by default it builds one of 167M parameters: this one is 52k.
_SMALL_VISION = {
    "model_type": "gemma4_vision", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 16,
}  # fmt: skip
_REQUIRED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "top_k_experts", "moe_intermediate_size",
)  # fmt: skip


def gemma_to_hf(config: GemmaConfig) -> dict[str, object]:
    """The `config.json` of DiffusionGemma (with `self_conditioning`) or of Gemma 4's causal language model.

    The vision tower that DiffusionGemma must have is a small one.
    """
    text: dict[str, object] = config.model_dump(
        exclude={
            "family", "layer_types", "rope_theta", "global_rope_theta", "global_partial_rotary_factor",
            "canvas_length", "self_conditioning",
        }
    )  # fmt: skip
    text["layer_types"] = list(config.layers)
    text["rope_parameters"] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": config.global_partial_rotary_factor,
            "rope_theta": config.global_rope_theta,
        },
    }
    text |= {"bos_token_id": None, "tie_word_embeddings": True}
    if config.self_conditioning:
        return {
            "model_type": DIFFUSION,
            "text_config": text,
            "vision_config": dict(_SMALL_VISION),
            "canvas_length": config.canvas_length,
        }
    features = {"hidden_size_per_layer_input": 0, "enable_moe_block": True, "attention_k_eq_v": True}
    return {"model_type": CAUSAL_TEXT, **text, **features}


def gemma_from_hf(raw: Mapping[str, object], source: str = "config.json") -> GemmaConfig:
    """The shape in a config of model_type diffusion_gemma, gemma4 or gemma4_text; `source` names it in errors.

    A key that is absent takes transformers' default. Raises InputError for another model type, a missing key, and
    by name for a feature that is not counted here: per-layer embeddings, shared keys and values, no experts, …
    """
    kind = raw.get("model_type")
    if kind not in (DIFFUSION, CAUSAL, CAUSAL_TEXT):
        raise InputError(
            f"{source}: model_type is {json.dumps(kind)}, expected {DIFFUSION}, {CAUSAL} or {CAUSAL_TEXT}; "
            "choose a checkpoint of one of these"
        )
    text = raw if kind == CAUSAL_TEXT else raw.get("text_config")
    if not isinstance(text, Mapping):
        raise InputError(f"{source}: text_config is missing, expected an object; correct the config")
    _refuse_features(raw, text, kind == DIFFUSION, source)
    absent = [key for key in _REQUIRED if text.get(key) is None]
    if absent:
        raise InputError(f"{source}: {absent[0]} is missing, expected an integer; correct the config")
    fields: dict[str, object] = {key: text[key] for key in _REQUIRED}
    for key in ("pad_token_id", "rms_norm_eps", "max_position_embeddings", "final_logit_softcapping"):
        if text.get(key) is not None:
            fields[key] = text[key]
    kinds = text.get("layer_types")
    if isinstance(kinds, list | tuple):
        fields["layer_types"] = tuple(kinds)
    fields |= {
        "sliding_window": text.get("sliding_window", 512),
        "self_conditioning": kind == DIFFUSION,
        "eos_token_id": first_token(text.get("eos_token_id", 1), f"{source}: eos_token_id"),
    }
    if raw.get("canvas_length") is not None:
        fields["canvas_length"] = raw["canvas_length"]
    fields |= _full_attention(text, source) | _rope(text, source)
    try:
        return GemmaConfig.model_validate(fields, strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        problem = f"{place}: {detail['msg']}" if place else detail["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: {problem}; correct the config") from None


def _full_attention(text: Mapping[str, object], source: str) -> dict[str, object]:
    """Head size and key-value heads of the full layers: under their own keys, or (as transformers saves them) in
    `per_layer_config`, the exceptions by layer."""
    heads = text.get("num_global_key_value_heads")
    found: dict[str, object] = {
        "global_head_dim": text.get("global_head_dim", 512),
        "num_global_key_value_heads": text["num_key_value_heads"] if heads is None else heads,
    }
    exceptions = text.get("per_layer_config")
    if not exceptions:
        return found
    listed = list(exceptions.values()) if isinstance(exceptions, Mapping) else [exceptions]
    if not isinstance(listed[0], Mapping) or any(entry != listed[0] for entry in listed):
        raise InputError(
            f"{source}: per_layer_config is {str(exceptions)[:80]}, expected the same exceptions for every full layer; "
            "choose another checkpoint"
        )
    return {
        "global_head_dim": listed[0].get("head_dim", text["head_dim"]),
        "num_global_key_value_heads": listed[0].get("num_key_value_heads", text["num_key_value_heads"]),
    }


def _rope(text: Mapping[str, object], source: str) -> dict[str, object]:
    """The RoPE fields; none of them where the file leaves them to the defaults."""
    parameters = text.get("rope_parameters")
    if parameters is None:
        return {}
    found: dict[str, object] = {}
    for layer, kind, prefix in (("sliding_attention", "default", ""), ("full_attention", "proportional", "global_")):
        entry = parameters.get(layer) if isinstance(parameters, Mapping) else None
        if not isinstance(entry, Mapping) or entry.get("rope_type") != kind:
            raise InputError(
                f"{source}: rope_parameters of {layer} are {str(entry)[:80]}, expected rope_type {kind}; "
                "choose another checkpoint"
            )
        if "rope_theta" in entry:
            found[f"{prefix}rope_theta"] = float(str(entry["rope_theta"]))
        if prefix and "partial_rotary_factor" in entry:
            found["global_partial_rotary_factor"] = float(str(entry["partial_rotary_factor"]))
    return found


def _refuse_features(raw: Mapping[str, object], text: Mapping[str, object], diffusion: bool, source: str) -> None:
    """Raise InputError for a setting that changes parameters or work in a way that is not counted here."""
    allowed: dict[str, tuple[object, ...]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "tie_word_embeddings": (True,),
        "use_bidirectional_attention": (None, "vision"),
    }
    missing: dict[str, object] = {}
    if not diffusion:
        allowed |= {
            "enable_moe_block": (True,),
            "attention_k_eq_v": (True,),
            "hidden_size_per_layer_input": (0, None),
            "num_kv_shared_layers": (0, None),
            "use_double_wide_mlp": (False, None),
        }
        missing = {"enable_moe_block": False, "attention_k_eq_v": False, "hidden_size_per_layer_input": 256}
        if text.get("final_logit_softcapping") is None:
            raise InputError(f"{source}: final_logit_softcapping is null, expected a number; choose another checkpoint")
    for key, values in allowed.items():
        value = text.get(key, missing.get(key, values[0]))
        if value not in values:
            raise InputError(
                f"{source}: {key} is {json.dumps(value)}, expected {json.dumps(values[0])}: only Gemma 4 with experts "
                "(26B-A4B) and its diffusion model are counted; choose one of these"
            )
    quantised = raw.get("quantization_config") or text.get("quantization_config")
    if quantised is not None:
        raise InputError(f"{source}: quantization_config is set, expected none: quantised weights are not supported")
