"""Hugging Face `config.json` to `BackboneConfig` and back, for Llama, Qwen2 and Qwen3.

What the backbone does not compute is refused by name rather than ignored: a sliding window, a RoPE scaling other than
Llama 3's, a bias on the output projection, quantised weights. Keys that change nothing at inference (dropout,
initialiser range, stored dtype, `auto_map`) are ignored. A key that is absent takes transformers' default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from .. import InputError
from .config import BackboneConfig, Llama3Rope

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# What transformers assumes for a key that the file leaves out, where it is not the same for every family.
_ABSENT: dict[str, dict[str, int]] = {
    "llama": {"max_position_embeddings": 2048},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}
_QWEN_WINDOW_FROM_LAYER = 28
_NOT_WRITTEN = {
    "family", "attention_bias", "qk_norm", "rope_scaling", "mask_token_id", "shifted_logits", "block_size",
}  # fmt: skip


def from_hf(raw: Mapping[str, object], source: str) -> BackboneConfig:
    """Map the keys of a Hugging Face config; `source` names its file in errors. Raises InputError."""
    family = _family(raw, source)
    _refuse_features(raw, family, source)
    hidden = _integer(raw, "hidden_size", source)
    heads = _integer(raw, "num_attention_heads", source)
    absent = _ABSENT[family]
    head_dim = raw.get("head_dim", absent.get("head_dim"))
    if head_dim is None:
        if hidden % heads:
            raise InputError(
                f"{source}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, "
                "expected one that is, or a head_dim; correct the config"
            )
        head_dim = hidden // heads
    kv_heads = raw.get("num_key_value_heads", absent.get("num_key_value_heads"))
    theta, scaling = _rope(raw, family, source)
    fields = {
        "vocab_size": _integer(raw, "vocab_size", source),
        "hidden_size": hidden,
        "intermediate_size": _integer(raw, "intermediate_size", source),
        "num_hidden_layers": _integer(raw, "num_hidden_layers", source),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "max_position_embeddings": _positions(raw, family),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "attention_bias": family == "qwen2",
        "qk_norm": family == "qwen3",
        "mask_token_id": raw.get("mask_token_id"),
        "eos_token_id": first_token(raw.get("eos_token_id"), f"{source}: eos_token_id"),
    }
    try:
        return BackboneConfig.model_validate(fields, strict=True)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_problem(error)}; correct the config") from None


def to_hf(config: BackboneConfig) -> dict[str, object]:
    """The `config.json` of the architecture that has this backbone's features.

    Raises InputError for a combination that none of the three architectures has. RoPE is written in the keys that
    every version of transformers (and other engines) reads.
    """
    if config.attention_bias and config.qk_norm:
        raise InputError(
            "backbone config: attention_bias and qk_norm are both true, and no supported architecture has both "
            "(Qwen2 has biases, Qwen3 has QK norms); switch one off to save it"
        )
    family = "qwen2" if config.attention_bias else "qwen3" if config.qk_norm else "llama"
    if family == "llama" and config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"backbone config: hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}, which LlamaForCausalLM requires; choose other sizes to save it"
        )
    scaling = config.rope_scaling
    raw: dict[str, object] = {"architectures": [ARCHITECTURES[family]], "model_type": family, "hidden_act": "silu"}
    raw |= config.model_dump(exclude=_NOT_WRITTEN)
    raw["rope_scaling"] = None if scaling is None else {"rope_type": "llama3"} | scaling.model_dump()
    raw |= {"bos_token_id": None, "pad_token_id": None}
    if config.mask_token_id is not None:
        raw["mask_token_id"] = config.mask_token_id
    if family == "llama":
        raw |= {"attention_bias": False, "mlp_bias": False}
    else:
        raw |= {"use_sliding_window": False}
    if family == "qwen3":
        raw["attention_bias"] = False
    return raw


def read_json(file: Path) -> dict[str, object]:
    """The object in a JSON file; InputError where there is none."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    except (ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{file}: not valid JSON ({problem}), expected an object; download it again") from None
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds a JSON {type(raw).__name__}, expected an object; download it again")
    return raw


def first_token(value: object, place: str) -> int | None:
    """The id in an `eos_token_id`: an integer, the first of a list, or None. `place` names the key in errors."""
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"{place} is {_show(value)}, expected a token id, a list of them or null; correct the config")


def _family(raw: Mapping[str, object], source: str) -> str:
    model_type, named = raw.get("model_type"), raw.get("architectures")
    names = named if isinstance(named, list) else []
    if model_type is None:
        model_type = next((family for family, name in ARCHITECTURES.items() if name in names), None)
    supported = ", ".join(f"{family} ({name})" for family, name in ARCHITECTURES.items())
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise InputError(
            f"{source}: model_type is {_show(model_type)} (architectures {_show(named)}), "
            f"expected one of {supported}; choose a checkpoint of one of these"
        )
    if names and ARCHITECTURES[model_type] not in names:
        raise InputError(
            f"{source}: architectures is {_show(named)}, expected [{ARCHITECTURES[model_type]!r}]; "
            "choose the checkpoint of the causal language model"
        )
    return model_type


def _refuse_features(raw: Mapping[str, object], family: str, source: str) -> None:
    """Raise InputError for a setting that changes the computation in a way that the backbone does not have."""
    if raw.get("quantization_config") is not None:
        raise InputError(
            f"{source}: quantization_config is {_show(raw['quantization_config'])}, expected none: quantised weights "
            "are not supported; choose the float32, bfloat16 or float16 checkpoint"
        )
    allowed: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu", None),
        "mlp_bias": (False, None),
        "partial_rotary_factor": (1.0, None),
    }
    if family != "qwen2":  # Qwen2 always biases q, k and v and has no such key; elsewhere it biases o_proj as well
        allowed["attention_bias"] = (False, None)
    for key, values in allowed.items():
        if raw.get(key) not in values:
            raise InputError(
                f"{source}: {key} is {_show(raw[key])}, expected {json.dumps(values[0])}: the backbone has no other; "
                "choose another checkpoint"
            )
    layers = _integer(raw, "num_hidden_layers", source)
    kinds = raw.get("layer_types")
    if kinds is not None:
        other = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else [kinds]
        if other:
            raise InputError(
                f"{source}: layer_types has {_show(other[0])}, expected only 'full_attention': the backbone attends "
                "to every position (no sliding window); choose another checkpoint"
            )
    elif family != "llama" and raw.get("use_sliding_window") and raw.get("sliding_window", 4096) is not None:
        first = raw.get("max_window_layers", _QWEN_WINDOW_FROM_LAYER)
        if not isinstance(first, int) or first < layers:
            raise InputError(
                f"{source}: use_sliding_window is true with max_window_layers {_show(first)} of {layers} layers, "
                "expected no layer with a sliding window; choose another checkpoint"
            )


def _rope(raw: Mapping[str, object], family: str, source: str) -> tuple[object, Llama3Rope | None]:
    """Base frequency and scaling, from `rope_parameters` (transformers 5) or `rope_scaling` and `rope_theta`."""
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    rope = raw.get(key) or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise InputError(
            f"{source}: {key} is {_show(rope)}, expected one object for all layers, like "
            '{"rope_type": "llama3", "factor": 8.0, ...}; choose another checkpoint'
        )
    if rope.get("partial_rotary_factor", 1.0) not in (1.0, None):
        raise InputError(
            f"{source}: {key}.partial_rotary_factor is {_show(rope['partial_rotary_factor'])}, expected 1.0: the "
            "backbone rotates whole heads; choose another checkpoint"
        )
    theta = rope.get("rope_theta", raw.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise InputError(
            f"{source}: {key}.rope_type is {_show(kind)}, expected 'default' or 'llama3': no other scaling is "
            "supported; choose another checkpoint, or remove the scaling if contexts stay short"
        )
    values = {name: rope.get(name) for name in ("factor", "low_freq_factor", "high_freq_factor")}
    original = rope.get("original_max_position_embeddings", _positions(raw, family))
    values["original_max_position_embeddings"] = raw.get("original_max_position_embeddings", original)
    try:
        return theta, Llama3Rope.model_validate(values, strict=True)
    except ValidationError as error:
        raise InputError(f"{source}: {key}.{_first_problem(error)}; correct the config") from None


def _positions(raw: Mapping[str, object], family: str) -> object:
    return raw.get("max_position_embeddings", _ABSENT[family]["max_position_embeddings"])


def _integer(raw: Mapping[str, object], key: str, source: str) -> int:
    value = raw.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    found = f"is {_show(value)}" if key in raw else "is missing"
    raise InputError(f"{source}: {key} {found}, expected a positive integer; correct the config")


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in first["loc"])
    return f"{place} is {_show(first['input'])}, expected otherwise: {message}" if place else message


def _show(value: object) -> str:
    """`value` for an error message: one line, not too long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
