"""Finished checkpoints are what the room's own loaders read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlmbench.models.checkpoints import load_network
from dlmbench.models.network import Network
from dlmbench.models.systems import read_system
from dlmbench.models.tokenizer import TEXT_FOLDER, load_tokenizer
from dlmbench.models.training.export import export
from dlmbench.models.training.shapes import MODELS, Model, Size, Vocabulary, initial_network, network_config

TOKENIZER = (TEXT_FOLDER / "tokenizer.json").read_bytes()
SMALL = Vocabulary(size=12, eos_id=9, mask_id=10)


def written(model: Model, made: Network, dtype: torch.dtype, folder: Path) -> Path:
    export(model, made.float(), SMALL, dtype, TOKENIZER, {"model": model}, folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_loads_as_it_was(
    network: Callable[[Model], Network], tmp_path: Path, model: Model, dtype: torch.dtype
) -> None:
    made = network(model)
    folder = written(model, made, dtype, tmp_path / "model")
    loaded = load_network(folder, dtype, "cpu")
    expected = dict(made.named_parameters())
    for name, value in loaded.named_parameters():
        assert torch.equal(value, expected[name].detach().to(dtype)), name
    assert loaded.config == made.config or model == "sedd"
    assert json.loads((folder / "training.json").read_text()) == {"model": model}
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "training.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "system", "generator"),
    [
        ("ar", "qwen3", "masked-diffusion"),
        ("mdlm", "qwen3", "masked-diffusion"),
        ("sedd", "sedd", "sedd"),
        ("block-diffusion", "sdar", "sdar"),
    ],
)
def test_systems(
    network: Callable[[Model], Network], tmp_path: Path, model: Model, system: str, generator: str
) -> None:
    found = read_system(written(model, network(model), torch.float32, tmp_path))
    assert (found.name, found.generator, found.config.mask_id) == (system, generator, 10)
    if model == "block-diffusion":
        assert found.config.block_size == 4
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.mask_id) == (9, 10)


def test_transformers_runs_the_ar_model(network: Callable[[Model], Network], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = network("ar")
    theirs = AutoModelForCausalLM.from_pretrained(written("ar", made, torch.float32, tmp_path))
    ids = torch.tensor([[9, 1, 2, 3, 4]])
    with torch.no_grad():
        ours = made.logits(made.trunk(ids, mask="causal"))
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_all_models_are_of_one_size(layers: int) -> None:
    """With the source's vocabulary: backbones equal, the DiT within a sixth of them for what is not an embedding."""
    vocabulary = Vocabulary(384, 382, 383)
    shapes = {model: network_config(model, Size(128, layers), vocabulary, 8) for model in MODELS}
    assert max(shape.total_parameters for shape in shapes.values()) <= 2_000_000
    assert len({shapes[model].total_parameters for model in MODELS if model != "sedd"}) == 1
    ratio = shapes["sedd"].non_embedding_parameters / shapes["ar"].non_embedding_parameters
    assert 1 <= ratio < 1.17


def test_a_network_starts_calm() -> None:
    """Initial predictions are near uniform: a first loss near log V, and no row that explodes."""
    for model in MODELS:
        made = initial_network(network_config(model, Size(64, 2), Vocabulary(64, 62, 63), 8), 0)
        made.rotary(16)
        condition = made.conditioning(torch.tensor([0.5]))
        with torch.no_grad():
            states = made.trunk(torch.arange(16)[None], mask="bidirectional", condition=condition)
            assert float(made.logits(states).std()) < 0.5
