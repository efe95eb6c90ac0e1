"""The recorder's trace, from a clock that is moved by hand: what belongs to which part, and that nothing is lost."""

import contextlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlmbench.models.generator import Observer
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder, Trace, unit_cost_s
from dlmbench.profiles.record import Phase


class HandClock:
    """A clock that stands still until it is moved; a stamp is its time, in whole ticks of 1/1024 s: sums are exact."""

    def __init__(self) -> None:
        self.ticks = 0

    def mark(self) -> int:
        return self.ticks

    def seconds(self, marks: Sequence[object]) -> list[float]:
        ticks = [mark for mark in marks if isinstance(mark, int)]
        return [(tick - ticks[0]) / 1024 for tick in ticks]

    def settle(self) -> None:
        return None


class Stage:
    """A recorder and the clock under it, driven like a generator drives it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.recorder = Recorder(self.clock)
        self.recorder.start()

    def idle(self, ticks: int) -> None:
        self.clock.ticks += ticks

    def forward(self, phase: Phase, ticks: int, network: str = "target") -> None:
        with self.recorder.forward(network, phase, 2, 1, 7, 2, "causal"):
            self.clock.ticks += ticks

    def write(self, ticks: int, step: int = 0, committed: bool = True) -> None:
        self.clock.ticks += ticks
        self.recorder.write(None, torch.tensor([[step], [step]]), step, offset=step, committed=committed)

    def trace(self) -> Trace:
        self.recorder.stop()
        return self.recorder.trace()


def test_the_recorder_is_an_observer() -> None:
    recorder: Observer = Recorder(HandClock())
    assert recorder is not None


def test_a_generation_by_hand() -> None:
    stage = Stage()
    stage.idle(64)  # the host sets up
    stage.forward("prefill", 512)
    stage.write(32, step=0)  # sampling
    stage.idle(16)  # the host prepares the next step
    stage.forward("decode", 128)
    stage.write(8, step=1)
    stage.forward("decode", 256)
    stage.write(4, step=2)
    stage.idle(4)  # the last token travels to the host
    trace = stage.trace()

    assert trace.prefill_s == 512 / 1024
    assert trace.forward_s == (128 + 256) / 1024
    assert trace.sampling_s == (32 + 8 + 4) / 1024
    assert trace.idle_s == (64 + 16 + 4) / 1024
    assert trace.latency_s == 1.0 == 1024 / 1024
    assert trace.events == 3 * 3  # a forward is two events, a write one
    assert [(f.phase, f.begin_s * 1024, f.end_s * 1024) for f in trace.forwards] == [
        ("prefill", 64, 576),
        ("decode", 624, 752),
        ("decode", 760, 1016),
    ]
    assert [(w.step, w.offset, w.at_s * 1024) for w in trace.writes] == [(0, 0, 608), (1, 1, 760), (2, 2, 1020)]


def test_what_was_announced_is_kept() -> None:
    stage = Stage()
    with stage.recorder.forward("draft", "draft", 3, 4, 9, 12, "bidirectional"):
        stage.clock.ticks += 1024
    ids = torch.tensor([[5, 6], [7, 8], [9, 10]])
    rows = torch.tensor([[True, False], [False, True], [True, True]])
    stage.recorder.write(rows, ids, 4, offset=2, committed=False)
    trace = stage.trace()
    (forward,) = trace.forwards
    assert (forward.network, forward.phase, forward.rows, forward.q_len) == ("draft", "draft", 3, 4)
    assert (forward.kv_len, forward.logit_rows, forward.mask) == (9, 12, "bidirectional")
    (write,) = trace.writes
    assert (write.step, write.offset, write.committed) == (4, 2, False)
    assert write.tokens.tolist() == ids.tolist()
    assert write.written.tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("mask", "expected"), [(None, [[1, 1], [1, 1]]), (torch.tensor([[True], [False]]), [[1, 1], [0, 0]])]
)
def test_a_write_of_whole_rows(mask: Tensor | None, expected: list[list[int]]) -> None:
    """No mask writes everything; a mask of one column speaks for the row."""
    stage = Stage()
    stage.recorder.write(mask, torch.zeros((2, 2), dtype=torch.int64), 0)
    (write,) = stage.trace().writes
    assert np.array_equal(write.written, np.array(expected, dtype=bool))


@pytest.mark.parametrize("phase", ["decode", "denoise", "cache_refresh", "draft", "verify"])
def test_only_reading_the_prompt_is_prefill(phase: Phase) -> None:
    stage = Stage()
    stage.forward("encode", 1)
    stage.forward(phase, 2)
    trace = stage.trace()
    assert (trace.prefill_s * 1024, trace.forward_s * 1024) == (1, 2)


def test_a_write_without_a_forward_is_not_sampling() -> None:
    stage = Stage()
    stage.write(8)
    stage.forward("decode", 16)
    stage.write(1)
    stage.write(2)  # two writes after one forward: both are its sampling
    trace = stage.trace()
    assert (trace.idle_s * 1024, trace.forward_s * 1024, trace.sampling_s * 1024) == (8, 16, 3)


def test_nothing_announced_is_all_idle() -> None:
    stage = Stage()
    stage.idle(512)
    trace = stage.trace()
    assert trace.latency_s == trace.idle_s == 0.5
    assert trace.forwards == trace.writes == ()
    assert trace.events == 0


def test_a_start_forgets_what_came_before() -> None:
    stage = Stage()
    stage.forward("prefill", 100)
    stage.write(100)
    stage.recorder.stop()
    stage.idle(1000)
    stage.recorder.start()
    stage.forward("decode", 256)
    trace = stage.trace()
    assert trace.latency_s == trace.forward_s == 0.25
    assert len(trace.forwards) == 1
    assert trace.writes == ()


def test_a_generation_that_fails_leaves_a_usable_recorder() -> None:
    stage = Stage()
    with contextlib.suppress(RuntimeError), stage.recorder.forward("target", "decode", 1, 1, 1, 1, "causal"):
        raise RuntimeError("out of memory")
    stage.recorder.start()
    stage.forward("decode", 512)
    assert stage.trace().forward_s == 0.5


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["prefill", "decode", "denoise", "write", "idle"]), st.integers(0, 10_000)
        ),
        max_size=40,
    )
)  # fmt: skip
def test_the_parts_add_up_to_the_latency(events: list[tuple[str, int]]) -> None:
    stage = Stage()
    for kind, ticks in events:
        if kind == "write":
            stage.write(ticks)
        elif kind == "idle":
            stage.idle(ticks)
        else:
            stage.forward(kind, ticks)  # type: ignore[arg-type]
    trace = stage.trace()
    assert trace.prefill_s + trace.forward_s + trace.sampling_s + trace.idle_s == trace.latency_s
    assert trace.latency_s * 1024 == sum(ticks for _, ticks in events)
    assert trace.prefill_s * 1024 == sum(ticks for kind, ticks in events if kind == "prefill")


def test_the_unit_cost_is_a_cost() -> None:
    assert 0 < unit_cost_s(HostClock(), repeats=50) < 1
