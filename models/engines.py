"""How forwards run: `eager`, `compile` (inductor), `cudagraph` (captured and replayed), `compile+cudagraph`.

An engine builds callables for one shape, ahead of the first request. The eager decode step attends to exactly the live
keys; compiled and captured ones have fixed shapes and mask the dead part of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .. import InputError
from .buckets import decode_buckets
from .cache import KVCache
from .network import Network

ENGINES = ("eager", "compile", "cudagraph", "compile+cudagraph")

Prefill = Callable[[Tensor], Tensor]  # ids [B, P] -> logits [B, V] of the last position
DecodeStep = Callable[[Tensor, int], Tensor]  # ids [B, 1], position -> logits [B, V]
Denoiser = Callable[..., Tensor]  # ids [B, S], and the network's conditioning if it has one -> hidden [B, S, d]
# ids [B, q], first position, slots that they see, conditioning or None -> hidden states [B, q, d]
BlockStep = Callable[[Tensor, int, int, "Tensor | None"], Tensor]


def check_engine(engine: str, device: str) -> None:
    """Raise InputError where `engine` does not exist or cannot run on `device`."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is unknown; choose from {', '.join(ENGINES)}")
    if "cudagraph" in engine and not device.startswith("cuda"):
        raise InputError(f"engine {engine!r} needs a CUDA device, not {device!r}; choose eager or compile")


def prefill(engine: str, network: Network, cache: KVCache, rows: int, length: int) -> Prefill:
    """A function that runs `length` prompt ids per row into the cache and gives the last position's logits."""

    def run(ids: Tensor) -> Tensor:
        return network.logits(network.trunk(ids, mask="causal", cache=cache)[:, -1])

    ids = network.embedding.new_zeros((rows, length), dtype=torch.int64)
    # On a CPU a prefill is matrix products, which compiling does not speed up; it would double the time to prepare.
    return built("eager" if engine == "compile" and not ids.is_cuda else engine, run, ids)


def denoiser(engine: str, network: Network, rows: int, length: int) -> Denoiser:
    """A function from a whole sequence of ids to its hidden states, attention bidirectional.

    It is called with the ids alone, or, for a network with conditioning, with `network.conditioning(sigma)` as well.
    """
    ids = network.embedding.new_zeros((rows, length), dtype=torch.int64)
    with torch.inference_mode():
        condition = network.conditioning(None)
    if condition is None:
        return built(engine, lambda ids: network.trunk(ids, mask="bidirectional"), ids)
    return built(engine, lambda ids, given: network.trunk(ids, mask="bidirectional", condition=given), ids, condition)


def block_step(
    engine: str, network: Network, cache: KVCache, rows: int, starts: Sequence[int], q_len: int
) -> BlockStep:
    """A function that runs `q_len` ids per row from a position on, writes them to the cache, and attends to its first
    `live` slots: one block of a canvas beside a prefix, or with what earlier forwards left behind it.

    `starts` are the positions that it will be called with. Compiled and captured ones mask a cache of fixed size.
    """
    if engine == "eager":
        return lambda ids, start, live, condition: network.trunk(
            ids, mask="bidirectional", cache=cache, start=start, live=live, condition=condition
        )
    ids = network.embedding.new_zeros((rows, q_len), dtype=torch.int64)
    with torch.inference_mode():
        condition = network.conditioning(None)
    places = {start: torch.arange(start, start + q_len, device=ids.device) for start in starts}
    ends = list(torch.arange(cache.capacity + 1, device=ids.device).view(-1, 1))
    given = () if condition is None else (condition,)

    def step(ids: Tensor, position: Tensor, end: Tensor, *condition: Tensor) -> Tensor:
        return network.static_block(ids, position, end, cache, cache.capacity, *condition)

    run = built(engine, step, ids, places[starts[0]], ends[starts[0] + q_len], *given)

    def at(ids: Tensor, start: int, live: int, condition: Tensor | None) -> Tensor:
        extra = () if condition is None else (condition,)
        return run(ids, places[start], ends[live], *extra)

    return at


def decode_step(engine: str, network: Network, cache: KVCache, rows: int) -> DecodeStep:
    """A function that runs one new token per row at a position and gives its logits."""
    if engine != "eager":
        return _static_steps(engine, network, cache, rows)

    def run(ids: Tensor, position: int) -> Tensor:
        return network.logits(network.trunk(ids, mask="causal", cache=cache, start=position)[:, 0])

    return run


def _static_steps(engine: str, network: Network, cache: KVCache, rows: int) -> DecodeStep:
    """A decode step whose shapes do not depend on the position: one compiled or captured function a bucket."""
    ids = network.embedding.new_zeros((rows, 1), dtype=torch.int64)
    steps = [(live, _static_step(engine, network, cache, live, ids)) for live in decode_buckets(cache.capacity)]
    positions = list(torch.arange(cache.capacity, device=ids.device).view(-1, 1))

    def run(ids: Tensor, position: int) -> Tensor:
        step = next(step for live, step in steps if position < live)
        return step(ids, positions[position])

    return run


def _static_step(
    engine: str, network: Network, cache: KVCache, live: int, ids: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    def step(ids: Tensor, position: Tensor) -> Tensor:
        return network.static_step(ids, position, cache, live)

    position = torch.zeros(1, dtype=torch.int64, device=ids.device)
    return built(engine, step, ids, position)


def built(engine: str, run: Callable[..., Tensor], *inputs: Tensor) -> Callable[..., Tensor]:
    """`run` under `engine`, already run once on inputs of the shapes that it will be called with."""
    if engine.startswith("compile"):
        run = _compiled(run)
    if "cudagraph" in engine:
        return _Captured(run, *inputs)
    with torch.inference_mode():
        run(*inputs)
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
