"""Studies of a pair: what the networks of one are told of, and why others are not."""

from typing import Any

import numpy as np
import pytest
import torch

from dlmbench.bench import studies
from dlmbench.bench.studies import infill_study, likelihood_study, pair_studies
from dlmbench.models.catalog import Context, NetworkSource
from dlmbench.models.pairs import load_pair
from dlmbench.models.source import Source, embedded_source


@pytest.fixture(scope="module")
def source() -> Source:
    return embedded_source()


def context(pair: str = "small", weights: str = "somewhere") -> Context:
    """The diffusion side of a pair on random numbers that are said to be a checkpoint's."""
    found = load_pair(pair)
    sides = found.ar.backbone, found.diffusion.backbone
    made = Context(sides[1], weights, torch.float32, "cpu", 0, partner=NetworkSource(sides[0], f"{weights}/ar"))
    for config, name in zip(sides, (f"{weights}/ar", weights), strict=True):
        made._networks[NetworkSource(config, name)] = NetworkSource(config, "random").make(0, torch.float32, "cpu")
    return made


def test_a_pair_on_masked_diffusion_has_every_study(source: Source) -> None:
    found = pair_studies("small", "masked-diffusion", context(), source, seed=1, tasks=False)
    assert found.tasks == ()
    assert found.why == {}
    assert found.sentence is not None
    assert found.infill is not None
    assert found.likelihood is not None
    assert found.likelihood.exact == {"ar": True, "diffusion": False}
    assert found.likelihood.monte_carlo_error["ar"] == 0 < found.likelihood.monte_carlo_error["diffusion"]
    for nats in found.likelihood.nats.values():
        # Random numbers know nothing: about the logarithm of the vocabulary, more than twice what the source knows.
        assert nats.value == pytest.approx(np.log(384), abs=0.5)
    assert 1.5 < found.likelihood.source < 2.2
    assert set(found.infill.validity) == {"diffusion", "ar", "ar, best of 8"}
    assert all(value.value == 0 for value in found.infill.validity.values())


@pytest.mark.parametrize(("pair", "generator"), [("small-sedd", "sedd"), ("small-block", "block-diffusion")])
def test_a_network_that_cannot_fill_a_gap_says_so(source: Source, pair: str, generator: str) -> None:
    found = pair_studies(pair, generator, context(pair), source, seed=1, tasks=False)
    assert found.likelihood is not None
    assert found.infill is None
    assert generator in found.why["infill"]
    assert found.sentence is None


def test_random_weights_have_the_tasks_alone(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "task_curves", lambda seed: ())
    found = pair_studies("small", "masked-diffusion", context(weights="random"), None, seed=1)
    assert "dlmbench train" in found.why["infill"]
    assert (found.sentence, found.infill, found.likelihood) == (None, None, None)


def test_the_source_itself_fills_every_gap(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood in the gap is valid: the measure finds no fault where there is none, and the mask is no word."""
    seen: dict[str, Any] = {}

    def kept(network: Any, ids: torch.Tensor, begin: int, end: int, *, mask_id: int, seed: int) -> torch.Tensor:
        seen.update(begin=begin, end=end, shape=tuple(ids.shape))
        return ids

    monkeypatch.setattr(studies, "infill", kept)
    made = context()
    found = infill_study(made.partner_network(), made.network(), source, seed=3, texts=16)
    assert found.validity["diffusion"].value == 1
    assert seen == {"begin": 24, "end": 32, "shape": (16, 48)}
    assert found.example["diffusion"] == found.example["original"]
    assert found.example["original"].count("⟦") == 1


def test_the_same_texts_are_judged_on_both_sides_and_at_every_call(source: Source) -> None:
    made = context()
    first, again = (
        likelihood_study(made.partner_network(), made.network(), "mdlm", source, seed=5, texts=8, passes=2)
        for _ in range(2)
    )
    assert first == again
    assert (
        first.source
        != likelihood_study(made.partner_network(), made.network(), "mdlm", source, seed=6, texts=8, passes=2).source
    )
