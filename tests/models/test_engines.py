"""Engines compute what the network computes, and are refused where they cannot run."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.engines import ENGINES, check_engine, decode_step, denoiser, prefill
from dlmbench.models.generator import Generator, Settings, Shape
from dlmbench.models.masked_diffusion import MaskedDiffusion

MakeNetwork = Callable[..., Backbone]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("engine", ["cudagraph", "compile+cudagraph"])
def test_graphs_need_cuda(engine: str) -> None:
    with pytest.raises(InputError, match=r"needs a CUDA device, not 'cpu'; choose eager or compile"):
        check_engine(engine, "cpu")
    check_engine(engine, "cuda")
    check_engine(engine, "cuda:1")


def test_engines_that_run_anywhere() -> None:
    for engine in ("eager", "compile"):
        check_engine(engine, "cpu")
        check_engine(engine, "cuda:0")


@pytest.mark.parametrize("engine", ["", "jit", "cudagraphs", "Eager"])
def test_an_unknown_engine_lists_the_choices(engine: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")):
        check_engine(engine, "cuda")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def check_against_whole_forwards(engine: str, network: Backbone, ids: Tensor) -> None:
    """Prefill, decode steps and denoiser of `engine` against full forwards without a cache."""
    rows, length = ids.shape
    whole = network.trunk(ids, mask="causal")
    cache = KVCache(network.config, rows, length, network.dtype, network.device)
    start = prefill(engine, network, cache, rows, 4)
    step = decode_step(engine, network, cache, rows)
    for _ in range(2):  # the second time on a cache that has been used
        close(start(ids[:, :4]), network.logits(whole[:, 3]))
        for position in range(4, length):
            close(step(ids[:, position : position + 1], position), network.logits(whole[:, position]))
    close(denoiser(engine, network, rows, length)(ids), network.trunk(ids, mask="bidirectional"))


def test_eager_is_the_network(make_network: MakeNetwork, prompts: Callable[..., Tensor]) -> None:
    check_against_whole_forwards("eager", make_network(), prompts(3, 9))


def test_building_leaves_nothing_that_a_request_would_see(
    make_network: MakeNetwork, prompts: Callable[..., Tensor]
) -> None:
    """`prepare` runs on zeros, which fill the cache with keys: none of them may be live."""
    network, ids = make_network(), prompts(3, 6)
    cache = KVCache(network.config, 3, 6, network.dtype, network.device)
    with torch.inference_mode():
        cache.append(0, 0, torch.full((3, 2, 6, 8), 1e9), torch.full((3, 2, 6, 8), 1e9))
        start = prefill("eager", network, cache, 3, 5)
        step = decode_step("eager", network, cache, 3)
        expected = network.logits(network.trunk(ids, mask="causal"))
        close(start(ids[:, :5]), expected[:, 4])
        close(step(ids[:, 5:], 5), expected[:, 5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Autoregressive, MaskedDiffusion])
def test_compiled_tokens_are_the_eager_ones(
    kind: type[Autoregressive] | type[MaskedDiffusion],
    make_network: MakeNetwork,
    prompts: Callable[..., Tensor],
    run: Callable[..., tuple[Tensor, object]],
) -> None:
    network = make_network(num_hidden_layers=1)
    eager, compiled = kind(network), kind(network, engine="compile")
    for settings in (Settings(), Settings(temperature=1.0)):
        expected, _ = run(eager, prompts(), 6, settings)
        found, _ = run(compiled, prompts(), 6, settings)
        assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Autoregressive, MaskedDiffusion])
def test_one_compiled_generator_serves_many_shapes(
    kind: type[Autoregressive] | type[MaskedDiffusion],
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A sweep opens dozens of shapes in one worker; torch gives up on a function after a few recompilations."""
    compile_ = torch.compile
    # Tracing is what counts here; generating code would take a minute.
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend="eager", **options))
    request.addfinalizer(torch._dynamo.reset)
    generator: Generator = kind(make_network(num_hidden_layers=1), engine="compile")
    for prompt in range(2, 11):
        generator.prepare(Shape(1, prompt, 4), Settings())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("engine", ["cudagraph", "compile+cudagraph"])
def test_graphs_are_the_network(engine: str, make_network: MakeNetwork, prompts: Callable[..., Tensor]) -> None:
    network = make_network("cuda")
    ids = prompts(3, 9).to("cuda")
    check_against_whole_forwards(engine, network, ids)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", [Autoregressive, MaskedDiffusion])
def test_graph_tokens_are_the_eager_ones(
    kind: type[Autoregressive] | type[MaskedDiffusion],
    make_network: MakeNetwork,
    prompts: Callable[..., Tensor],
    run: Callable[..., tuple[Tensor, object]],
) -> None:
    """300 tokens: the AR side crosses from its first bucket of slots into the second."""
    network = make_network("cuda")
    length = 300 if kind is Autoregressive else 16
    prompt = prompts(2, 5).to("cuda")
    expected, _ = run(kind(network), prompt, length)
    found, _ = run(kind(network, engine="cudagraph"), prompt, length)
    assert torch.equal(found, expected)
