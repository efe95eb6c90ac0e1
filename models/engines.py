"""How forwards run: `eager`, `compile` (inductor), `cudagraph` (captured and replayed), `compile+cudagraph`.

An engine builds callables for one shape, ahead of the first request. Eager and compiled decode steps attend to exactly
the live keys. A captured graph has fixed shapes, so its decode step masks a cache that is live up to the next multiple
of 256: one graph a bucket.
"""

from __future__ import annotations

from collections.abc import Callable
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

    return _built(engine, run, network.embedding.new_zeros((rows, length), dtype=torch.int64))


def denoiser(engine: str, network: Backbone, rows: int, length: int) -> Denoiser:
    """A function from a whole sequence of ids to its hidden states, attention bidirectional."""

    def run(ids: Tensor) -> Tensor:
        return network.trunk(ids, mask="bidirectional")

    return _built(engine, run, network.embedding.new_zeros((rows, length), dtype=torch.int64))


def decode_step(engine: str, network: Backbone, cache: KVCache, rows: int) -> DecodeStep:
    """A function that runs one new token per row at a position and gives its logits."""
    ids = network.embedding.new_zeros((rows, 1), dtype=torch.int64)
    if "cudagraph" in engine:
        return _captured_step(engine, network, cache, ids)

    def run(ids: Tensor, position: int) -> Tensor:
        return network.logits(network.trunk(ids, mask="causal", cache=cache, start=position)[:, 0])

    if engine == "compile":
        run = _compiled(run, dynamic=True)
        with torch.inference_mode():
            for position in {cache.capacity - 1, cache.capacity // 2, 1}:
                run(ids, position)
    return run


def _captured_step(engine: str, network: Backbone, cache: KVCache, ids: Tensor) -> DecodeStep:
    step: Callable[..., Tensor] = network.static_step
    if engine.startswith("compile"):
        step = _compiled(step, dynamic=False)
    position = torch.zeros(1, dtype=torch.int64, device=ids.device)
    graphs = []
    # From the longest bucket down, so that later captures fit into the first one's memory pool.
    for live in range(-(-cache.capacity // _BUCKET) * _BUCKET, 0, -_BUCKET):
        slots = min(live, cache.capacity)
        graphs.append(_Captured(lambda i, p, slots=slots: step(i, p, cache, slots), ids, position))
    graphs.reverse()

    def run(ids: Tensor, position: int) -> Tensor:
        return graphs[position // _BUCKET](ids, position)

    return run


def _built(engine: str, run: Callable[[Tensor], Tensor], ids: Tensor) -> Callable[[Tensor], Tensor]:
    """`run` under `engine`, already run once on ids of the shape that it will be called with."""
    if engine.startswith("compile"):
        run = _compiled(run, dynamic=False)
    if "cudagraph" in engine:
        return _Captured(run, ids)
    with torch.inference_mode():
        run(ids)
    return run


def _compiled(function: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
    return torch.compile(function, dynamic=dynamic, fullgraph=True)


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

    def __call__(self, *inputs: Tensor | int) -> Tensor:
        for static, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, int):
                static.fill_(given)
            else:
                static.copy_(given)
        self._graph.replay()
        return self._output
