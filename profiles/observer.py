"""The recorder: an observer that stamps every forward and write of one generation, and reads them back afterwards.

Inside the timed region it appends to lists and takes stamps; it copies nothing to the host and never synchronises. Its
cost is known: `events` times the unit cost that `unit_cost_s` measures on the machine at hand.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .clocks import Clock
from .record import Phase


@dataclass(frozen=True, slots=True)
class Forward:
    """One announced forward; `begin_s` and `end_s` since the start of the generation."""

    network: str
    phase: Phase
    rows: int
    q_len: int
    kv_len: int
    logit_rows: int
    mask: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Write:
    """One announced write: `written` and `tokens` [B, n] for output columns from `offset`, at `at_s`."""

    at_s: float
    step: int
    offset: int
    written: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    committed: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """All that was announced during one generation, on the host, in order. `sampling_s` + … add up to `latency_s`.

    `wall_s` is what the host's own clock saw go by from start to stop.
    """

    latency_s: float
    forwards: tuple[Forward, ...]
    writes: tuple[Write, ...]
    prefill_s: float
    forward_s: float
    sampling_s: float
    idle_s: float
    events: int
    wall_s: float = 0.0


_BEGIN, _END, _WRITE = 0, 1, 2


class _Span:
    """The context manager that `Recorder.forward` returns; one object serves all forwards of a recorder."""

    __slots__ = ("_kinds", "_mark", "_marks")

    def __init__(self, clock: Clock, kinds: list[int], marks: list[object]) -> None:
        self._mark, self._kinds, self._marks = clock.mark, kinds, marks

    def __enter__(self) -> None:
        self._kinds.append(_BEGIN)
        self._marks.append(self._mark())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._marks.append(self._mark())
        self._kinds.append(_END)


@dataclass(slots=True)
class Recorder:
    """Observes one generation: `start()`, the generation, `stop()`, then `trace()`."""

    clock: Clock
    _kinds: list[int] = field(default_factory=list)
    _marks: list[object] = field(default_factory=list)
    _forwards: list[tuple[str, Phase, int, int, int, int, str]] = field(default_factory=list)
    _writes: list[tuple[Tensor | None, Tensor, int, int, bool]] = field(default_factory=list)
    _span: _Span = field(init=False)
    _begin_s: float = 0.0
    _wall_s: float = 0.0

    def __post_init__(self) -> None:
        self._span = _Span(self.clock, self._kinds, self._marks)

    def start(self) -> None:
        """Begin the timed region: the request's ids are on the device and the device is idle."""
        for events in (self._kinds, self._marks, self._forwards, self._writes):
            events.clear()
        self._begin_s = time.perf_counter()
        self._marks.append(self.clock.mark())

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> _Span:
        """See `models.generator.Observer`."""
        self._forwards.append((network, phase, rows, q_len, kv_len, logit_rows, mask))
        return self._span

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        """See `models.generator.Observer`."""
        self._marks.append(self.clock.mark())
        self._kinds.append(_WRITE)
        self._writes.append((row_mask, token_ids, step, offset, committed))

    def stop(self) -> None:
        """End the timed region: the last committed token has arrived on the host."""
        self._marks.append(self.clock.mark())
        self._wall_s = time.perf_counter() - self._begin_s

    def trace(self) -> Trace:
        """Everything observed between `start` and `stop`, read back to the host."""
        at = self.clock.seconds(self._marks)
        parts = {"prefill": 0.0, "forward": 0.0, "sampling": 0.0, "idle": 0.0}
        forwards, writes = [], []
        calls, written = iter(self._forwards), iter(self._writes)
        call = None
        after_forward = False
        for index, kind in enumerate(self._kinds, start=1):
            elapsed = at[index] - at[index - 1]
            if kind == _BEGIN:
                call = next(calls)
                parts["idle"] += elapsed
                after_forward = False
            elif kind == _END:
                assert call is not None
                parts["prefill" if call[1] in ("prefill", "encode") else "forward"] += elapsed
                forwards.append(Forward(*call, begin_s=at[index - 1], end_s=at[index]))
                after_forward = True
            else:
                parts["sampling" if after_forward else "idle"] += elapsed
                writes.append(_read(at[index], *next(written)))
        parts["idle"] += at[-1] - at[-2] if len(at) > 1 else 0.0
        return Trace(
            latency_s=at[-1],
            forwards=tuple(forwards),
            writes=tuple(writes),
            prefill_s=parts["prefill"],
            forward_s=parts["forward"],
            sampling_s=parts["sampling"],
            idle_s=parts["idle"],
            events=len(self._kinds),
            wall_s=self._wall_s,
        )


def _read(at: float, row_mask: Tensor | None, token_ids: Tensor, step: int, offset: int, committed: bool) -> Write:
    tokens = token_ids.cpu().numpy().astype(np.int64, copy=False)
    written = np.ones(tokens.shape, dtype=np.bool_) if row_mask is None else row_mask.cpu().numpy()
    return Write(at, step, offset, np.broadcast_to(written, tokens.shape), tokens, committed)


def unit_cost_s(clock: Clock, repeats: int = 2000) -> float:
    """Measured cost of one event (a forward is two events, a write is one) on the host, in seconds."""
    recorder = Recorder(clock)
    tokens = torch.zeros((1, 1), dtype=torch.int64)
    best = float("inf")
    for _ in range(3):
        recorder.start()
        begin = time.perf_counter_ns()
        for step in range(repeats):
            with recorder.forward("target", "decode", 1, 1, 1, 1, "causal"):
                pass
            recorder.write(None, tokens, step, offset=step)
        best = min(best, (time.perf_counter_ns() - begin) * 1e-9 / (3 * repeats))
        recorder.stop()
        clock.seconds(recorder._marks)
    return best
