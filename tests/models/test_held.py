"""What each generator says that it holds, against sizes worked out by hand and the tensors that it reads."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from dlmbench.models.catalog import Context, NetworkSource, build
from dlmbench.models.config import BackboneConfig
from dlmbench.models.generator import Held, Holding, Settings, Shape, Silent
from dlmbench.models.generator import Request as Asked

CONFIG = BackboneConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, eos_token_id=0,
)  # fmt: skip
# A position's keys and values, float32: 2 layers x 2 x 8 x 4 B.
TOKEN_B = 128
SHAPE = Shape(3, 4, 8)


def held(
    name: str, shape: Shape = SHAPE, *, engine: str = "eager", kv: torch.dtype | None = None, **settings: object
) -> Held:
    """The generator's own account after a generation."""
    context = Context(
        CONFIG, "random", torch.float32, "cpu", 0, engine=engine, kv_dtype=kv, partner=NetworkSource(CONFIG, "random")
    )
    generator = build(name, context)
    chosen = Settings(**settings)  # type: ignore[arg-type]
    generator.prepare(shape, chosen)
    generator.generate(
        Asked(torch.ones((shape.batch, shape.prompt_length), dtype=torch.int64), shape.length, chosen, 0), Silent()
    )
    assert isinstance(generator, Holding)
    found = generator.held()
    assert found is not None
    return found


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct memory behind tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize(
    ("name", "settings", "positions"),
    [
        ("ar", {}, 12),
        ("masked-diffusion", {"steps": 4}, 0),
        ("mdlm", {"steps": 4}, 0),
        ("fast-dllm", {"steps": 4, "block_length": 4}, 0),
        ("fast-dllm", {"steps": 4, "block_length": 4, "cache": "dual"}, 12),
        ("dream", {"steps": 4}, 0),
        ("dream", {"steps": 4, "block_length": 4, "cache": "prefix"}, 12),
        ("sdar", {"steps": 6, "block_length": 5, "sampler": "low_confidence_static"}, 15),  # three whole blocks of 5
        ("sdar", {"steps": 6, "block_length": 5, "sampler": "low_confidence_static", "cache": "none"}, 0),
        ("bd3lm", {"block_length": 4}, 12),
        # Target and drafter: P + L + k + 1 each.
        ("speculative", {"block_length": 2}, 2 * 15),
        ("speculative", {"block_length": 2, "cache": "none"}, 15),
        ("hf-static", {}, 11),  # the last token is never written
    ],
)
def test_weights_and_caches_to_the_byte(name: str, settings: dict[str, object], positions: int) -> None:
    found = held(name, **settings)
    assert size(found.kv) == 3 * positions * TOKEN_B
    assert size(found.weights) == pytest.approx(CONFIG.weight_bytes("float32"), rel=0.01)  # RoPE's own, in transformers
    assert (found.logits_b, found.grown_b) == (64 * 4, 0)


def test_a_cache_of_another_dtype_is_half_as_large() -> None:
    assert size(held("ar", kv=torch.bfloat16).kv) == 3 * 12 * TOKEN_B // 2


def test_a_growing_cache_counts_as_long_as_it_ends() -> None:
    found = held("hf")
    assert found.kv == ()
    assert found.grown_b == 3 * 11 * TOKEN_B


def test_only_who_reads_layouts_for_single_rows_holds_them() -> None:
    """The wide weights of a layer, 16 x (32 + 48) numbers twice, and the head's 64 x 16 a second time."""
    alone = Shape(1, 4, 8)
    weights = CONFIG.weight_bytes("float32")
    assert size(held("ar", alone).weights) == weights + 4 * (2 * 16 * (32 + 48) + 64 * 16)
    assert size(held("ar").weights) == weights
    assert size(held("masked-diffusion", alone, steps=4).weights) == weights


def test_a_hybrid_on_two_networks_holds_both() -> None:
    wide = CONFIG.model_copy(update={"intermediate_size": 48})
    context = Context(CONFIG, "random", torch.float32, "cpu", 0, partner=NetworkSource(wide, "random"))
    generator = build("speculative", context)
    generator.prepare(SHAPE, Settings())
    assert isinstance(generator, Holding)
    found = generator.held()
    assert found is not None
    assert size(found.weights) == CONFIG.weight_bytes("float32") + wide.weight_bytes("float32")


def test_nothing_is_held_of_a_cache_before_it_is_made() -> None:
    for name in ("ar", "fast-dllm", "dream", "sdar", "speculative"):
        context = Context(CONFIG, "random", torch.float32, "cpu", 0, partner=NetworkSource(CONFIG, "random"))
        generator = build(name, context)
        assert isinstance(generator, Holding)
        found = generator.held()
        assert found is not None
        assert found.kv == ()
