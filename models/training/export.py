"""The finished model as a checkpoint in the layout that its system's loaders read, here and in the field.

AR and MDLM are saved as a Qwen3 (`Qwen3ForCausalLM` runs the first as it is), block diffusion as an SDAR, which is the
same tensors with a block size, SEDD in SEDD's own layout. `config.json` comes last: a folder that has one is whole.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from ..backbone import Backbone
from ..dit_config import DiTConfig
from ..hf_config import to_hf
from ..hf_files import WEIGHTS
from ..layouts import Layout, pieces
from ..network import Network
from .files import write_whole
from .shapes import Model, Vocabulary

CARD = "training.json"


def export(
    model: Model,
    network: Network,
    vocabulary: Vocabulary,
    dtype: torch.dtype,
    tokenizer: bytes,
    card: dict[str, object],
    folder: Path,
) -> None:
    """Write model.safetensors in `dtype`, tokenizer.json, training.json and config.json to `folder`.

    Raises InputError where one cannot be written; files that were there before are then whole.
    """
    parameters = {name: parameter.detach().to(dtype) for name, parameter in network.named_parameters()}
    layout: Layout = "dit" if isinstance(network.config, DiTConfig) else "hf"
    tensors = {piece.name: piece.of(parameters).contiguous() for piece in pieces(network.config, layout)}
    config = _config(model, network, vocabulary) | {"dtype": str(dtype).removeprefix("torch.")}
    write_whole(folder / WEIGHTS, save(tensors, {"format": "pt"}))
    write_whole(folder / "tokenizer.json", tokenizer)
    write_whole(folder / CARD, _json(card))
    write_whole(folder / "config.json", _json(config))


def _config(model: Model, network: Network, vocabulary: Vocabulary) -> dict[str, object]:
    special: dict[str, object] = {"eos_token_id": vocabulary.eos_id, "mask_token_id": vocabulary.mask_id}
    shape = network.config
    if isinstance(network, Backbone):
        config = to_hf(network.config)
        if model == "block-diffusion":
            config |= {"architectures": ["SDARForCausalLM"], "model_type": "sdar", "block_size": shape.block_size}
        return config
    assert isinstance(shape, DiTConfig)
    sizes = {
        "hidden_size": shape.hidden_size,
        "cond_dim": shape.cond_dim,
        "length": shape.max_position_embeddings,
        "n_blocks": shape.num_hidden_layers,
        "n_heads": shape.num_attention_heads,
        "scale_by_sigma": shape.scale_by_sigma,
        "dropout": 0.0,
    }
    return special | {
        "model_type": "sedd",
        "tokens": shape.vocab_size - 1,
        "graph": {"type": shape.graph},
        "noise": {"type": shape.noise, "sigma_min": shape.sigma_min, "sigma_max": shape.sigma_max},
        "model": sizes,
    }


def _json(document: dict[str, object]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
