"""A recorder that also names what it observes in the torch profiler: the same interface, for replays under a profile.

The whole generation is a region "dlmbench.generation", each forward "dlmbench.forward:PHASE", each write a short
"dlmbench.write". Timed samples never run with it: a region costs microseconds, a stamp of the recorder far less.
"""

from __future__ import annotations

from types import TracebackType

from torch import Tensor
from torch.profiler import record_function

from .observer import Recorder, Trace
from .record import Phase

GENERATION = "dlmbench.generation"
FORWARD = "dlmbench.forward:"
WRITE = "dlmbench.write"


class _Forward:
    """One forward: the region outside, so that the recorder's stamps enclose the forward alone."""

    __slots__ = ("_announce", "_region")

    def __init__(self, recorder: Recorder, work: tuple[str, Phase, int, int, int, int, str]) -> None:
        self._region = record_function(FORWARD + work[1])
        self._announce = recorder.forward(*work)

    def __enter__(self) -> None:
        self._region.__enter__()
        self._announce.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._announce.__exit__(kind, error, traceback)
        self._region.__exit__(kind, error, traceback)


class Annotated:
    """Observes one generation like the recorder that it wraps: `start()`, the generation, `stop()`, then `trace()`.

    The region of the generation begins where the recorder's clock does, so a profile cut to it and a timeline of the
    trace share their zero (on CUDA but for the few microseconds that the first event waits in the stream).
    """

    __slots__ = ("_generation", "_recorder")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._generation: record_function | None = None

    def start(self) -> None:
        """Begin the region; one that a failed generation left open ends first."""
        self._close()
        self._generation = record_function(GENERATION)
        self._generation.__enter__()
        self._recorder.start()

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> _Forward:
        """See `models.generator.Observer`."""
        return _Forward(self._recorder, (network, phase, rows, q_len, kv_len, logit_rows, mask))

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        """See `models.generator.Observer`."""
        with record_function(WRITE):
            self._recorder.write(row_mask, token_ids, step, offset=offset, committed=committed)

    def stop(self) -> None:
        """End the region: the last committed token has arrived on the host."""
        self._recorder.stop()
        self._close()

    def trace(self) -> Trace:
        """Everything that the recorder observed between `start` and `stop`."""
        return self._recorder.trace()

    def _close(self) -> None:
        if self._generation is not None:
            self._generation.__exit__(None, None, None)
            self._generation = None
