"""The checkpoints that ship: what they say of themselves is so, and the pairs run on them."""

import json
from pathlib import Path

import pytest
import torch

from dlmbench import InputError
from dlmbench.models.checkpoints import checked, load_network
from dlmbench.models.hf_files import resolve
from dlmbench.models.pairs import load_pair, pair_names
from dlmbench.models.source import embedded_source
from dlmbench.models.trained import FOLDER, fingerprint, shipped_folder, shipped_names
from dlmbench.models.training.data import SourceBatches
from dlmbench.models.training.heldout import held_out_loss
from dlmbench.models.training.objectives import objective
from dlmbench.models.training.recipe import Recipe
from dlmbench.models.training.shapes import MODELS, Model, Vocabulary

SHIPPING = [name for name in pair_names() if load_pair(name).diffusion.trained is not None]


def card(model: str) -> dict:
    return json.loads((FOLDER / model / "training.json").read_text())


def test_every_model_that_can_be_trained_ships_and_all_fit_in_16_mb() -> None:
    assert shipped_names() == sorted(MODELS)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 16_000_000
    for model in MODELS:
        system = checked(FOLDER / model).system
        assert system.config.total_parameters == card(model)["parameters"] <= 2_000_000


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_losses_are_those_of_the_files(model: Model) -> None:
    """Recomputed on the card's own held-out texts with the card's own draws."""
    source, kept = embedded_source(), card(model)
    recipe = Recipe.model_validate(kept["recipe"])
    assert source.tokenizer.eos_id is not None
    assert source.tokenizer.mask_id is not None
    vocabulary = Vocabulary(source.vocab_size, source.tokenizer.eos_id, source.tokenizer.mask_id)
    ids = SourceBatches(source, recipe.batch, recipe.length, recipe.seed).held_out(recipe.held_out_rows)
    network = load_network(FOLDER / model, torch.float32, "cpu")
    judge = objective(model, vocabulary, recipe.block_size)
    found = held_out_loss(network, judge, ids, batch=32, passes=recipe.held_out_passes, seed=recipe.seed)
    stated = kept["held_out"]
    assert found.nats == pytest.approx(stated["nats"], rel=2e-4)
    assert found.mc_error == pytest.approx(stated["mc_error"], rel=0.05, abs=1e-6)
    own = -float(source.score(ids.numpy()).log_prob.sum()) / ids.numel()
    assert own == pytest.approx(stated["source_nats"], rel=1e-6)
    assert stated["ratio"] == pytest.approx(stated["nats"] / own, rel=1e-3)
    assert kept["data"]["entropy_rate"] == pytest.approx(source.entropy_rate, rel=1e-6)
    # No model may lie below the source on average; AR must lie within 3 % above it, the bounds within theirs.
    allowed = {"ar": 1.03, "mdlm": 1.25, "sedd": 1.30, "block-diffusion": 1.20}
    assert 1.0 < stated["ratio"] < allowed[model]


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_tokenizer_is_the_sources(model: str) -> None:
    from dlmbench.models.tokenizer import load_tokenizer

    assert load_tokenizer(FOLDER / model).sha256 == embedded_source().tokenizer.sha256


@pytest.mark.parametrize("name", SHIPPING)
def test_a_pairs_shape_is_that_of_its_trained_weights(name: str) -> None:
    pair = load_pair(name).default
    for side in (pair.ar, pair.diffusion):
        assert checked(resolve(side.weights)).system.config == side.backbone


def test_a_pair_without_trained_weights_is_measured_on_random_ones() -> None:
    pair = load_pair("5m")
    assert pair.default is pair
    with pytest.raises(InputError, match="pair 5m ships no trained weights for its diffusion side"):
        pair.on_trained("diffusion")


def test_a_name_that_does_not_ship_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="trained:nosuch: no such trained model ships; choose from trained:ar, "):
        resolve("trained:nosuch")
    with pytest.raises(InputError):
        shipped_folder("trained:../pairs")
    assert len(fingerprint("trained:ar")) == 12
    assert Path(resolve("trained:ar")) == FOLDER / "ar"
