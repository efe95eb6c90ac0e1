"""A shape's derived sizes by hand and against the module's own tensors, and what a shape refuses."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dlmbench.models.backbone import Backbone
from dlmbench.models.config import BackboneConfig, Llama3Rope

# Small enough to count by hand; the heads together (16) are wider than the hidden size (8).
TINY: dict[str, Any] = {
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}


def shape(**changes: Any) -> BackboneConfig:
    return BackboneConfig(**(TINY | changes))


def test_sizes_by_hand() -> None:
    config = shape()
    assert config.query_size == 16
    assert config.kv_size == 8
    # q 8x16 + k 8x8 + v 8x8 + o 16x8 = 384; gate, up, down 3 x 8x12 = 288.
    assert config.layer_matrix_parameters == 384 + 288
    # Two layers of 672 + two norms of 8, and the final norm of 8.
    assert config.non_embedding_parameters == 2 * (672 + 16) + 8 == 1384
    # Embedding and head: 10 x 8 each.
    assert config.total_parameters == 1384 + 160
    assert config.weight_bytes("float32") == 4 * 1544
    assert config.weight_bytes("bfloat16") == 2 * 1544
    # A key and a value of 8 in each of two layers.
    assert config.kv_bytes_per_token("float32") == 2 * 8 * 2 * 4
    assert config.kv_bytes_per_token("bfloat16") == 2 * 8 * 2 * 2


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"tie_word_embeddings": True}, -80),
        ({"attention_bias": True}, 2 * (16 + 8 + 8)),
        ({"qk_norm": True}, 2 * (4 + 4)),
        ({"attention_bias": True, "qk_norm": True, "tie_word_embeddings": True}, 64 + 16 - 80),
    ],
)
def test_features_add_what_they_should(changes: dict[str, bool], more: int) -> None:
    assert shape(**changes).total_parameters == shape().total_parameters + more


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1, "head_dim": 6}])
def test_parameters_are_those_of_the_network(tied: bool, bias: bool, qk_norm: bool, sizes: dict[str, int]) -> None:
    config = shape(tie_word_embeddings=tied, attention_bias=bias, qk_norm=qk_norm, **sizes)
    with torch.device("meta"):
        network = Backbone(config)
    assert config.total_parameters == sum(parameter.numel() for parameter in network.parameters())
    vocabulary = {id(network.embedding), id(network.head.weight)}
    rest = sum(parameter.numel() for parameter in network.parameters() if id(parameter) not in vocabulary)
    assert config.non_embedding_parameters == rest


def test_the_mask_is_the_last_id_unless_named() -> None:
    assert shape().mask_id == 9
    assert shape(mask_token_id=0).mask_id == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)"),
        ({"head_dim": 5}, r"head_dim \(5\) must be even"),
        ({"mask_token_id": 10}, r"mask_token_id \(10\) is outside the vocabulary of 10"),
        ({"eos_token_id": 10}, r"eos_token_id \(10\) is outside the vocabulary of 10"),
        ({"eos_token_id": -1}, r"eos_token_id\n.*greater than or equal to 0"),
        ({"hidden_size": 0}, r"hidden_size\n"),
        ({"rms_norm_eps": 0.0}, r"rms_norm_eps\n"),
        ({"num_experts": 8}, r"num_experts\n.*not permitted"),
    ],
)
def test_an_impossible_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        shape(**changes)


def test_a_shape_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        shape().hidden_size = 16  # type: ignore[misc]


def test_rope_scaling_needs_a_range() -> None:
    sizes = {"factor": 8.0, "original_max_position_embeddings": 8192}
    assert Llama3Rope(low_freq_factor=1.0, high_freq_factor=4.0, **sizes).factor == 8
    with pytest.raises(ValidationError, match="high_freq_factor must exceed low_freq_factor"):
        Llama3Rope(low_freq_factor=4.0, high_freq_factor=4.0, **sizes)
