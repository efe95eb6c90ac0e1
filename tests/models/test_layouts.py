"""Every tensor name leads to its own rows of the network, and together they lead to all of it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.layouts import DERIVED, Layout, pieces
from dlmbench.models.systems import read_system
from dlmbench.models.weights import empty_network

GOLDEN = Path(__file__).parents[1] / "golden"
LLAMA = BackboneConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16,
)  # fmt: skip
DIT = DiTConfig(vocab_size=61, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, cond_dim=8)
CASES: list[tuple[Any, Layout]] = [
    (LLAMA, "hf"),
    (LLAMA.model_copy(update={"tie_word_embeddings": True, "qk_norm": True}), "hf"),
    (LLAMA.model_copy(update={"attention_bias": True, "num_key_value_heads": 4}), "hf"),
    (LLAMA, "llada"),
    (LLAMA.model_copy(update={"tie_word_embeddings": True}), "llada"),
    (DIT, "dit"),
    (DIT, "dit-prefixed"),
    (DIT.model_copy(update={"adaln": False}), "dit"),
]


@pytest.mark.parametrize(("config", "layout"), CASES)
def test_every_row_of_every_parameter_has_one_name(config: Any, layout: Layout) -> None:
    network = empty_network(config, torch.float32, "meta")
    rows: dict[str, list[int]] = defaultdict(list)
    parameters = dict(network.named_parameters())
    names = []
    for piece in pieces(config, layout):
        names.append(piece.name)
        assert piece.of(parameters).shape == piece.shape
        assert piece.shape[1:] == parameters[piece.parameter].shape[1:]
        rows[piece.parameter] += range(piece.start, piece.start + piece.shape[0])
    assert len(set(names)) == len(names)
    for name, parameter in parameters.items():
        assert sorted(rows[name]) == list(range(parameter.shape[0])), name
    assert rows.keys() == parameters.keys()


@pytest.mark.parametrize(("config", "layout"), CASES)
def test_the_pieces_hold_as_many_numbers_as_the_config_counts(config: Any, layout: Layout) -> None:
    assert sum(torch.Size(piece.shape).numel() for piece in pieces(config, layout)) == config.total_parameters


@pytest.mark.parametrize("system", ["mdlm", "sedd_absorb", "sedd_uniform", "bd3lm", "llada", "llada_gqa", "dream"])
def test_names_and_shapes_are_the_originals(system: str) -> None:
    found = read_system(GOLDEN / system)
    assert isinstance(found.config, BackboneConfig | DiTConfig)
    prefixed: Layout = "dit-prefixed" if system in ("mdlm", "bd3lm") else found.layout
    ours = {piece.name: list(piece.shape) for piece in pieces(found.config, prefixed)}
    with safe_open(GOLDEN / system / "model.safetensors", framework="pt") as stored:
        theirs = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
    assert ours == {name: shape for name, shape in theirs.items() if not DERIVED.fullmatch(name)}


def test_fused_projections_come_in_the_order_of_their_use() -> None:
    """q, k, v: 4 x 16 rows, then twice 2 x 16; gate, then up: 48 rows each."""
    found = {piece.name: (piece.parameter, piece.start, piece.shape[0]) for piece in pieces(LLAMA)}
    at = "model.layers.1.self_attn."
    qkv = "layers.1.qkv.weight"
    assert [found[f"{at}{name}_proj.weight"] for name in "qkv"] == [(qkv, 0, 64), (qkv, 64, 32), (qkv, 96, 32)]
    assert found["model.layers.1.mlp.up_proj.weight"] == ("layers.1.gate_up.weight", 48, 48)
    llada = {piece.name: (piece.parameter, piece.start) for piece in pieces(LLAMA, "llada")}
    at = "model.transformer.blocks.1."
    assert llada[f"{at}ff_proj.weight"] == ("layers.1.gate_up.weight", 0), "ff_proj is LLaDA's gate"
    assert llada[f"{at}up_proj.weight"] == ("layers.1.gate_up.weight", 48)
    assert llada[f"{at}ff_out.weight"] == ("layers.1.down.weight", 0), "and ff_out a block's last product …"
    assert llada["model.transformer.ff_out.weight"] == ("head.weight", 0), "… and, at the top, the head"


@pytest.mark.parametrize(
    "name",
    [
        "rotary_emb.inv_freq", "backbone.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
        "model.layers.11.self_attn.rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max",
    ],
)  # fmt: skip
def test_what_follows_from_the_config_is_known(name: str) -> None:
    assert DERIVED.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["sampling_eps", "backbone.vocab_embed.embedding", "xrotary_emb.inv_freq", "rotary_emb.inv_freq.weight"]
)
def test_nothing_else_is_passed_over(name: str) -> None:
    assert not DERIVED.fullmatch(name)
