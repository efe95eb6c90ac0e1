"""Whole generations against the published sampling loops, written out plainly (tests/models/published).

Both sides run the same network with the same kernels; what differs is the loop: logits and noise of every position
over the whole vocabulary and waiting for the host, against only what a step needs. `same tokens` settings reproduce the
published stream (greedy, or a Gumbel race on the same uniforms) and must return the same tokens; `exact` draws follow
the same law from other random numbers, as many tokens.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from dlmbench.models.backbone import Backbone
from dlmbench.models.dream import Dream
from dlmbench.models.generator import Request, Settings, Silent
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.mdlm import MDLM

if TYPE_CHECKING:
    from .interleave import Rounds

PAIR = "gpt2-size"  # 124M parameters, V = 50,258
PROMPT, LENGTH, STEPS = 0, 256, 8
ROUNDS = 3


def published(name: str) -> ModuleType:
    """A module of tests/models/published, which is no package."""
    path = Path(__file__).parents[2] / "models" / "published" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"published_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def request(settings: Settings) -> Request:
    return Request(torch.arange(5, 5 + 32)[None], LENGTH, settings, 7)


def ours(generator: Any, settings: Settings) -> Callable[[], Tensor]:
    """A variant: the tokens of one generation."""
    asked = request(settings)
    generator.prepare(asked.shape, settings)
    return lambda: generator.generate(asked, Silent())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def compare(
    interleave: Callable[..., Rounds], tell: Callable[..., None], what: str, variants: dict[str, Callable[[], Tensor]]
) -> None:
    """The published loop is the first variant; those called `same tokens` must return what it returns."""
    taken = interleave(variants, rounds=ROUNDS)
    plain, *rest = variants
    expected = taken.results[plain][0]
    for name in rest:
        found = taken.results[name][0]
        if "same tokens" in name:
            assert torch.equal(found, expected)
        assert found.shape == expected.shape
        tell(f"{what}: {name} over the published loop", taken.ratio(plain, name), "×", "≥ 1.5")


def test_llada(network: Callable[[str], Backbone], interleave: Any, tell: Any) -> None:
    backbone, loop = network(PAIR), published("llada").published_llada
    generator = MaskedDiffusion(backbone)
    prompt = request(Settings()).prompt_ids

    def plain(temperature: float) -> Callable[[], Tensor]:
        return lambda: loop(backbone, prompt, LENGTH, STEPS, LENGTH, temperature, seeded(), suppress_mask=True)

    variants = {
        "published, temperature 1": plain(1.0),
        "gumbel64, same tokens": ours(generator, Settings(steps=STEPS, temperature=1.0, draw="gumbel64")),
        "exact": ours(generator, Settings(steps=STEPS, temperature=1.0)),
    }
    compare(interleave, tell, f"LLaDA {PAIR}, L {LENGTH}, T {STEPS}, temperature 1", variants)


def test_llada_greedy(network: Callable[[str], Backbone], interleave: Any, tell: Any) -> None:
    backbone, loop = network(PAIR), published("llada").published_llada
    prompt = request(Settings()).prompt_ids
    variants = {
        "published": lambda: loop(backbone, prompt, LENGTH, STEPS, LENGTH, 0.0, seeded(), suppress_mask=True),
        "same tokens": ours(MaskedDiffusion(backbone), Settings(steps=STEPS)),
    }
    # Greedy decoding draws no noise that could be saved: what is left is the head on committed positions.
    compare(interleave, tell, f"LLaDA {PAIR}, L {LENGTH}, T {STEPS}, greedy", variants)


# At 50,258 tokens and at Dream's own vocabulary, on the same body.
@pytest.mark.parametrize("vocabulary", [None, 152_064])
# The last are the settings that Dream's authors run it with.
@pytest.mark.parametrize(
    ("sampler", "temperature", "top_p"),
    [("origin", 1.0, 1.0), ("entropy", 0.0, 1.0), ("topk_margin", 0.0, 1.0), ("entropy", 0.2, 0.95)],
)
def test_dream(
    network: Callable[..., Backbone],
    interleave: Any,
    tell: Any,
    sampler: str,
    temperature: float,
    top_p: float,
    vocabulary: int | None,
) -> None:
    own = {} if vocabulary is None else {"vocab_size": vocabulary, "mask_token_id": 151_666}
    backbone, loop = network(PAIR, shifted_logits=True, **own), published("dream").published_dream
    prompt = request(Settings()).prompt_ids
    name = "exact" if temperature else "same tokens"
    variants = {
        "published": lambda: loop(
            backbone, prompt, LENGTH, STEPS, sampler, temperature, seeded(), top_p=top_p, suppress_mask=True
        ),
        name: ours(Dream(backbone), Settings(steps=STEPS, sampler=sampler, temperature=temperature, top_p=top_p)),
    }
    what = (
        f"Dream {PAIR}, V {backbone.config.vocab_size}, L {LENGTH}, T {STEPS}, {sampler}, temperature {temperature:g}, "
        f"top-p {top_p:g}"
    )
    compare(interleave, tell, what, variants)


def test_mdlm(network: Callable[[str], Backbone], interleave: Any, tell: Any) -> None:
    backbone, loop = network(PAIR), published("mdlm").published_ddpm_cache
    prompt = request(Settings()).prompt_ids
    variants = {
        "published": lambda: loop(backbone, prompt, LENGTH, STEPS, seeded())[0],
        "gumbel32, same tokens": ours(MDLM(backbone), Settings(steps=STEPS, temperature=1.0, draw="gumbel32")),
        "exact": ours(MDLM(backbone), Settings(steps=STEPS, temperature=1.0)),
    }
    compare(interleave, tell, f"MDLM ddpm_cache {PAIR}, L {LENGTH}, T {STEPS}", variants)
