"""Autoregressive decoding: our generator, transformers' `generate` and llama.cpp, on the same weights, greedy, float32.

A time is that of a whole generation after a short prompt, prefill included.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.catalog import Context
from dlmbench.models.config import BackboneConfig
from dlmbench.models.generator import Generator, Request, Settings
from dlmbench.models.hf_generate import HFGenerate
from dlmbench.models.plugins import load_factory
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder

if TYPE_CHECKING:
    from .interleave import Rounds

LLAMACPP = f"{Path(__file__).with_name('llamacpp.py')}:llamacpp"
INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf"))
PROMPT = 16


def llamacpp(network: Backbone, kv_dtype: torch.dtype | None = None) -> Generator:
    """The plug-in, made the way that `--generator` makes it, on a network that is already there."""
    context = Context(network.config, "random", network.dtype, "cpu", 0, kv_dtype=kv_dtype, _networks=[network])
    return load_factory(LLAMACPP)(context)


def ready(generator: Generator, request: Request) -> Callable[[], torch.Tensor]:
    """A variant: the request's tokens from a generator that is prepared for it."""
    generator.prepare(request.shape, request.settings)
    recorder = Recorder(HostClock())

    def generate() -> torch.Tensor:
        recorder.start()
        return generator.generate(request, recorder)

    return generate


@pytest.mark.parametrize(
    ("pair", "batch", "length", "rounds", "target"),
    [
        ("5m", 1, 64, 10, "≥ 1.8"),
        ("gpt2-size", 1, 24, 6, "≥ 1.25, stretch 1.7"),
        ("5m", 8, 32, 8, "≥ 1"),
        ("gpt2-size", 8, 10, 6, "≥ 1"),
    ],
    ids=["5m-batch1", "gpt2-size-batch1", "5m-batch8", "gpt2-size-batch8"],
)
def test_decode(
    pair: str,
    batch: int,
    length: int,
    rounds: int,
    target: str,
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    tell: Callable[..., None],
) -> None:
    # A network each: layouts that favour single rows belong to it, and the two engines want different ones.
    eager, compiled = network(pair), network(pair)
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(eager.config.vocab_size - 2, (batch, PROMPT), generator=random)
    request = Request(ids, length, Settings(), 0)
    generators: dict[str, Generator] = {
        "dynamic": HFGenerate.from_backbone(eager, "dynamic"),
        "static": HFGenerate.from_backbone(eager, "static"),
    }
    if INSTALLED:
        generators |= {
            "llama.cpp": llamacpp(eager),
            "llama.cpp, f16 cache": llamacpp(eager, torch.float16),
        }
    generators |= {
        "eager": Autoregressive(eager, engine="eager"),
        "compile": Autoregressive(compiled, engine="compile"),
    }
    variants = {name: ready(generator, request) for name, generator in generators.items()}
    # Keys and values rounded to float16 may choose other tokens; everything else is float32 and may not.
    tokens = {name: variant().tolist() for name, variant in variants.items()}
    for name, rows in tokens.items():
        assert "f16" in name or rows == tokens["eager"], name

    taken = interleave(variants, rounds=rounds, warm_up=0)

    for engine in ("eager", "compile"):
        for cache in ("dynamic", "static"):
            what = f"AR {pair}, batch {batch}: {engine} over HF {cache}"
            tell(what, taken.ratio(cache, engine), "×", target)
    for name in variants:
        if name.startswith("llama.cpp"):
            what = f"AR {pair}, batch {batch}: {name} over compile"
            tell(what, taken.ratio("compile", name), "×", "the gap, to be known")


@pytest.mark.skipif(not INSTALLED, reason="needs the extra llamacpp")
@pytest.mark.parametrize("tied", [True, False])
def test_llamacpp_decodes_the_same_network(tied: bool, benchmark: Callable[..., object]) -> None:
    """Grouped heads, a tied head or one of its own: whatever the GGUF got wrong would change tokens."""
    config = BackboneConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tied,
        eos_token_id=3,
    )
    context = Context(config, "random", torch.float32, "cpu", 0)
    random = torch.Generator().manual_seed(4)
    for parameter in context.network().parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    request = Request(torch.randint(60, (3, 5), generator=random), 40, Settings(), 0)
    ours = ready(Autoregressive(context.network()), request)()
    assert len(ours.unique()) > 10
    theirs = ready(load_factory(LLAMACPP)(context), request)
    assert benchmark(theirs).tolist() == ours.tolist()
