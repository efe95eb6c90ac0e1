"""How forwards run: `eager`, `compile` (inductor), `cudagraph` (captured and replayed), `compile+cudagraph`.

An engine builds callables for one shape, ahead of the first request. The eager decode step attends to exactly the live
keys; compiled and captured ones have fixed shapes and mask the dead part of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .. import InputError
from .backbone import Backbone
from .cache import KVCache

ENGINES = ("eager", "compile", "cudagraph", "compile+cudagraph")

Prefill = Callable[[Tensor], Tensor]  # ids [B, P] -> logits [B, V] of the last position
DecodeStep = Callable[[Tensor, int], Tensor]  # ids [B, 1], position -> logits [B, V]
Denoiser = Callable[[Tensor], Tensor]  # ids [B, S] -> hidden states [B, S, d]

_BUCKET = 256


def check_engine(engine: str, device: str) -> None:
    """Raise InputError where `engine` does not exist or cannot run on `device`."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    if "cudagraph" in engine and not device.startswith("cuda"):
        raise InputError(f"engine {engine!r} needs a CUDA device, not {device!r}; choose eager or compile")


def prefill(engine: str, network: Backbone, cache: KVCache, rows: int, length: int) -> Prefill:
    """A function that runs `length` prompt ids per row into the cache and gives the last position's logits."""

    def run(ids: Tensor) -> Tensor:
        return network.logits(network.trunk(ids, mask="causal", cache=cache)[:, -1])

    ids = network.embedding.new_zeros((rows, length), dtype=torch.int64)
    # On a CPU a prefill is matrix products, which compiling does not speed up; it would double the time to prepare.
    return _built("eager" if engine == "compile" and not ids.is_cuda else engine, run, ids)


def denoiser(engine: str, network: Backbone, rows: int, length: int) -> Denoiser:
    """A function from a whole sequence of ids to its hidden states, attention bidirectional."""

    def run(ids: Tensor) -> Tensor:
        return network.trunk(ids, mask="bidirectional")

    return _built(engine, run, network.embedding.new_zeros((rows, length), dtype=torch.int64))


def decode_step(engine: str, network: Backbone, cache: KVCache, rows: int) -> DecodeStep:
    """A function that runs one new token per row at a position and gives its logits."""
    if engine != "eager":
        return _static_steps(engine, network, cache, rows)

    def run(ids: Tensor, position: int) -> Tensor:
        return network.logits(network.trunk(ids, mask="causal", cache=cache, start=position)[:, 0])

    return run


def _static_steps(engine: str, network: Backbone, cache: KVCache, rows: int) -> DecodeStep:
    """A decode step whose shapes do not depend on the position: one compiled or captured function a bucket.

    Buckets double from 256 live slots to the whole cache: at most half of the keys read are dead, and few graphs are
    made.
    """
    ids = network.embedding.new_zeros((rows, 1), dtype=torch.int64)
    bounds = [cache.capacity]
    while bounds[-1] > _BUCKET:
        bounds.append(max(_BUCKET, -(-bounds[-1] // 2)))
    steps = [(live, _static_step(engine, network, cache, live, ids)) for live in bounds]
    steps.reverse()
    positions = list(torch.arange(cache.capacity, device=ids.device).view(-1, 1))

    def run(ids: Tensor, position: int) -> Tensor:
        step = next(step for live, step in steps if position < live)
        return step(ids, positions[position])

    return run


def _static_step(
    engine: str, network: Backbone, cache: KVCache, live: int, ids: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    def step(ids: Tensor, position: Tensor) -> Tensor:
        return network.static_step(ids, position, cache, live)

    run: Callable[[Tensor, Tensor], Tensor] = _compiled(step) if engine.startswith("compile") else step
    position = torch.zeros(1, dtype=torch.int64, device=ids.device)
    if "cudagraph" in engine:
        return _Captured(run, ids, position)
    with torch.inference_mode():
        run(ids, position)
    return run


def _built(engine: str, run: Callable[[Tensor], Tensor], ids: Tensor) -> Callable[[Tensor], Tensor]:
    """`run` under `engine`, already run once on ids of the shape that it will be called with."""
    if engine.startswith("compile"):
        run = _compiled(run)
    if "cudagraph" in engine:
        return _Captured(run, ids)
    with torch.inference_mode():
        run(ids)
    return run


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for the shapes of its first call.

    Closures of one definition share a code object, and dynamo counts recompilations by code object: a copy each keeps
    the ninth shape of a sweep from being refused.
    """
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return torch.compile(own, dynamic=False, fullgraph=True)


class _Captured:
    """A CUDA graph of `function` over static inputs; calling it copies the inputs in and replays."""

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs = [t.clone() for t in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode():
            # Warm-up off the capture: libraries allocate workspaces, inductor compiles and autotunes.
            with torch.cuda.stream(stream):
                for _ in range(3):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given)
        self._graph.replay()
        return self._output
