"""What a profile says: how its events become spans, busy time and gaps by hand, and real work on this machine."""

from __future__ import annotations

import pytest
import torch

from dlmbench.profiles.annotated import FORWARD, GENERATION, WRITE
from dlmbench.profiles.kernels import (
    BETWEEN,
    COMPILED_GRAPH,
    LONGEST_KERNELS,
    Event,
    Profiled,
    Span,
    SpanKind,
    _assembled,
    busy_intervals,
    categorise,
    kernel_profile,
    profiled,
)


def kernel(name: str, begin: float, end: float, stream: int = 7) -> Span:
    return Span(name, "kernel", categorise(name, "kernel"), begin, end, end - begin, stream)


def test_busy_time_and_gaps_by_hand() -> None:
    """Two streams: 0-2 and 1-3 overlap, then 4-5, then 9-10, in a region of 12: busy 5; gaps 1 and 4 between them."""
    spans = (
        kernel("gemm_a", 0.0, 2.0),
        kernel("flash_fwd", 1.0, 3.0, stream=8),
        kernel("gemm_a", 4.0, 5.0),
        kernel("rms_norm", 9.0, 10.0),
    )
    seen = Profiled("cuda", 12.0, 0.0, spans)
    found = kernel_profile(seen, device="cuda", output_tokens=4, forwards=2, median_latency_s=10.0)
    assert found.busy_s == pytest.approx(5.0)
    assert (found.launches, found.wall_s, found.output_tokens) == (4, 12.0, 4)
    assert found.overhead == pytest.approx(0.2)
    assert found.categories["matmul"].seconds == pytest.approx(3.0)
    assert found.categories["matmul"].launches == 2
    assert found.categories["attention"].seconds == pytest.approx(2.0)
    assert (found.kernels[0].name, found.kernels[0].launches) == ("gemm_a", 2)
    assert found.gaps is not None
    assert (found.gaps.count, found.gaps.longest_s) == (2, pytest.approx(4.0))
    assert found.gaps.total_s == pytest.approx(5.0)


def test_streams_that_overlap_by_hand() -> None:
    """Three streams: one inside another, two that touch, one alone. Busy 0-6, 6-8 and 9-10 of 12: one gap, of 1."""
    spans = [
        kernel("a", 0.0, 6.0),
        kernel("b", 1.0, 2.0, stream=8),
        kernel("c", 5.0, 6.0, stream=9),
        kernel("a", 6.0, 8.0, stream=8),
        kernel("a", 9.0, 10.0),
        kernel("b", 9.0, 10.0, stream=8),
    ]
    assert busy_intervals(spans) == busy_intervals(reversed(spans)) == [(0.0, 8.0), (9.0, 10.0)]
    seen = Profiled("cuda", 12.0, 0.0, tuple(spans))
    found = kernel_profile(seen, device="cuda", output_tokens=3, forwards=1, median_latency_s=None)
    assert found.busy_s == 9.0
    assert found.gaps is not None
    assert (found.gaps.count, found.gaps.total_s, found.gaps.median_s, found.gaps.longest_s) == (1, 1.0, 1.0, 1.0)
    # Kernels that run at the same time are each at work: their seconds add up to more than the device was busy.
    assert sum(part.seconds for part in found.categories.values()) == 6 + 1 + 1 + 2 + 1 + 1
    # Six launches for three tokens.
    assert found.launches / found.output_tokens == 2


def test_gaps_are_between_kernels_whatever_their_stream() -> None:
    """Gaps of 1, 2, 3 and 10 ms; what was before the first kernel and after the last is none."""
    at = [(0, 1), (2, 3), (5, 6), (9, 10), (20, 21)]
    spans = tuple(kernel("a", begin * 1e-3, end * 1e-3, stream=7 + i % 2) for i, (begin, end) in enumerate(at))
    found = kernel_profile(
        Profiled("cuda", 1.0, 0.0, spans), device="cuda", output_tokens=1, forwards=1, median_latency_s=None
    )
    assert found.gaps is not None
    assert found.gaps.count == 4
    assert found.gaps.total_s == pytest.approx(0.016)
    assert found.gaps.median_s == pytest.approx(0.0025)
    # Numpy's percentile lies between the two longest: 3 + 0.97 x (10 - 3).
    assert found.gaps.p99_s == pytest.approx(0.00979)
    assert found.gaps.longest_s == pytest.approx(0.010)


def test_the_longest_kernels_are_listed_and_the_others_counted() -> None:
    spans = tuple(kernel(f"k{i:02}", i, i + (i + 1) / 100) for i in range(LONGEST_KERNELS + 5))
    found = kernel_profile(
        Profiled("cuda", 99.0, 0.0, spans), device="cuda", output_tokens=1, forwards=1, median_latency_s=None
    )
    assert [k.name for k in found.kernels] == [f"k{i:02}" for i in reversed(range(5, LONGEST_KERNELS + 5))]
    assert found.others == 5


def test_nothing_ran() -> None:
    found = kernel_profile(
        Profiled("cuda", 1.0, 0.0, ()), device="cuda", output_tokens=0, forwards=0, median_latency_s=None
    )
    assert (found.busy_s, found.launches, found.overhead, found.gaps, found.kernels) == (0.0, 0, None, None, ())


def test_operators_have_their_own_time_only() -> None:
    """A linear layer calls a product: together they take no longer than the whole, and nothing counts twice."""
    layer, x = torch.nn.Linear(256, 256), torch.randn(64, 256)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            for _ in range(20):
                y = torch.softmax(layer(x), -1)
        return y

    y, seen = profiled(work, "cpu")
    assert y.shape == (64, 256)
    found = kernel_profile(seen, device="cpu", output_tokens=20, forwards=20, median_latency_s=None)
    assert 0 < found.busy_s <= found.wall_s
    assert sum(part.seconds for part in found.categories.values()) == pytest.approx(found.busy_s, rel=0.02)
    assert any("addmm" in kernel.name for kernel in found.kernels)
    assert found.categories["matmul"].launches >= 20
    assert sum(seconds for _, seconds in seen.stacks()) == pytest.approx(found.busy_s, rel=0.02)


# From the profiler's events to spans. Times in microseconds since the generation began, 100 after the profile.


def event(name: str, kind: SpanKind, begin: int, end: int, track: int = 1, correlation: int = 0) -> Event:
    return Event(name, kind, (100 + begin) * 1000, (100 + end) * 1000, track, correlation)


REGION = event(GENERATION, "region", 0, 1000)


def assembled(*events: Event, device: str = "cuda") -> list[Span]:
    """The spans of a generation of 1 ms."""
    seen = _assembled([REGION, *events], device, 5.0, 2.0)  # type: ignore[arg-type]
    assert seen.wall_s == pytest.approx(1e-3)
    return [span for span in seen.spans if span.name != GENERATION]


def us(span: Span) -> tuple[int, int]:
    return round(span.begin_s * 1e6), round(span.end_s * 1e6)


def test_a_kernel_belongs_to_the_forward_that_launched_it() -> None:
    """It runs when the host has long been at the next thing."""
    *_, gemm = assembled(
        event(FORWARD + "prefill", "region", 10, 30),
        event("aten::mm", "op", 12, 20),
        event("cudaLaunchKernel", "launch", 14, 16, correlation=3),
        event(FORWARD + "decode", "region", 40, 60),
        event("nvjet_tst_128x64", "kernel", 45, 300, track=7, correlation=3),
    )
    assert (gemm.phase, gemm.category, gemm.track, us(gemm)) == ("prefill", "matmul", 7, (45, 300))


def test_a_replayed_graphs_kernels_have_no_operator_around_them() -> None:
    """One launch for all of them: each is judged by its name, and its phase is that of the replay."""
    spans = assembled(
        event(FORWARD + "decode", "region", 10, 50),
        event("cudaGraphLaunch", "launch", 20, 30, correlation=9),
        *(
            event(name, "kernel", 100 + 10 * i, 108 + 10 * i, track=7, correlation=9)
            for i, name in enumerate(
                ["nvjet_tst", "pytorch_flash::flash_fwd_splitkv_kernel", "triton_per_fused_mean_mul_pow_rsqrt_0", "x"]
            )
        ),
        event("Memcpy DtoD", "copy", 200, 201, track=7, correlation=9),
    )
    kernels = [span for span in spans if span.kind in ("kernel", "copy")]
    assert [k.category for k in kernels] == ["matmul", "attention", "normalisation", "other", "copy"]
    assert {k.phase for k in kernels} == {"decode"}
    # The graph's launch is one call of the host, its kernels are what the device was launched with.
    assert [span.name for span in spans if span.kind == "launch"] == ["cudaGraphLaunch"]
    found = kernel_profile(
        Profiled("cuda", 1e-3, 0.0, tuple(spans)), device="cuda", output_tokens=5, forwards=1, median_latency_s=None
    )
    assert found.launches == 5


def test_a_kernel_whose_name_says_nothing_is_what_its_operator_is() -> None:
    """The math attention's softmax; and a kernel with no known launch is taken where it ran."""
    *_, softmax, lost = assembled(
        event(FORWARD + "denoise", "region", 0, 500),
        event("aten::scaled_dot_product_attention", "op", 10, 90),
        event("aten::_softmax", "op", 20, 40),
        event("cudaLaunchKernel", "launch", 25, 30, correlation=1),
        event("softmax_warp_forward", "kernel", 600, 610, track=7, correlation=1),
        event("elementwise", "kernel", 700, 710, track=7, correlation=44),
    )
    assert (softmax.category, softmax.phase) == ("attention", "denoise")
    assert (lost.category, lost.phase) == ("other", BETWEEN)


def test_operators_keep_their_own_time_and_take_the_outermost_category() -> None:
    linear, matmul, mm, other = assembled(
        event("aten::scaled_dot_product_attention", "op", 0, 100),
        event("aten::matmul", "op", 10, 60),
        event("aten::mm", "op", 20, 50),
        event("aten::relu", "op", 200, 240),
        device="cpu",
    )
    assert [span.category for span in (linear, matmul, mm, other)] == ["attention"] * 3 + ["other"]
    assert [round(span.own_s * 1e6) for span in (linear, matmul, mm, other)] == [50, 20, 30, 40]
    assert [(span.depth, span.leaf) for span in (linear, matmul, mm, other)] == [
        (0, False),
        (1, False),
        (2, True),
        (0, True),
    ]


def test_a_compiled_graph_on_a_cpu_is_one_operator() -> None:
    """Its own time is its fused loops; the products that it calls are theirs. Its frames outside are no work."""
    frame, graph, product = assembled(
        event("Torch-Compiled Region: 0/0", "region", 0, 300),
        event("## Call CompiledFxGraph fa3k ##", "op", 50, 250),
        event("mkldnn::_linear_pointwise", "op", 100, 180),
        device="cpu",
    )
    assert (frame.kind, graph.kind, product.kind) == ("region", "op", "op")
    assert (graph.name, graph.category, round(graph.own_s * 1e6)) == (COMPILED_GRAPH, "other", 120)
    assert (product.category, product.leaf) == ("matmul", True)


def test_spans_are_cut_to_the_generation() -> None:
    """What was before or after is left out, what reaches over an end is cut; only its threads and streams count."""
    early, mine, other, late = assembled(
        event("before", "kernel", -50, -10, track=7),
        event("early", "kernel", -50, 10, track=7),
        event("aten::add", "op", 20, 30),
        event("aten::mul", "op", 40, 50, track=900),
        event("late", "kernel", 990, 2000, track=7),
        event("after", "kernel", 1500, 1600, track=7),
    )
    assert (us(early), us(late)) == ((0, 10), (990, 1000))
    # Threads are numbered, the one that generates first; streams keep their numbers.
    assert [span.track for span in (early, mine, other, late)] == [7, 1, 2, 7]


def test_stamps_that_cross_are_straightened() -> None:
    """A callee that seems to outlast its caller by some nanoseconds ends with it."""
    caller, callee = assembled(event("aten::linear", "op", 0, 50), event("aten::addmm", "op", 10, 51), device="cpu")
    assert us(callee) == (10, 50)
    assert caller.own_s == pytest.approx(10e-6)


def test_writes_and_sampling_are_between_forwards() -> None:
    prefill, draw, write = assembled(
        event(FORWARD + "prefill", "region", 0, 100),
        event("aten::argmax", "op", 110, 120),
        event(WRITE, "region", 130, 140),
        device="cpu",
    )
    assert prefill.phase == "prefill"
    assert (draw.phase, draw.category, write.phase) == (BETWEEN, "sampling", BETWEEN)
    seen = Profiled("cpu", 1e-3, 0.0, (prefill, draw, write))
    assert seen.stacks() == (((BETWEEN, "sampling", "aten::argmax"), pytest.approx(10e-6)),)


def test_without_a_generation_the_whole_work_is_the_region() -> None:
    whole = Event("dlmbench.profiled", "region", 0, 10_000, 1, 0)
    seen = _assembled([whole, Event("aten::add", "op", 2000, 3000, 1, 0)], "cpu", 5.0, 2.0)
    assert (seen.wall_s, seen.began_s) == (pytest.approx(10e-6), 5.0)
    # With one, the monotonic clock's time moves to where it begins.
    inner = Event(GENERATION, "region", 4000, 9000, 1, 0)
    assert _assembled([whole, inner], "cpu", 5.0, 2.0).began_s == pytest.approx(5.0 + 4e-6)
    nothing = _assembled([], "cuda", 5.0, 2.0)
    assert (nothing.wall_s, nothing.spans) == (2.0, ())
