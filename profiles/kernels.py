"""What ran during one generation: kernels, operators and launches from the torch profiler, on one clock, by kind.

`profiled` runs some work once under the profiler and keeps plain spans; `kernel_profile` counts them up. Zero is the
begin of the generation's region (`annotated.GENERATION`, else the whole work), and spans are cut to that region.

On a GPU the work is what its streams ran: kernels, copies and memsets. On a CPU it is operators, each with its own time
without what it calls. An operator takes the category of the outermost operator around it that has one, so that the
products inside an attention are attention; a kernel is judged by its name first, because a replayed CUDA graph has no
operators around it, and by the operator that launched it only where its name says nothing. A compiled graph on a CPU is
one operator, "compiled graph": its own time is its fused loops and the code that calls them, "other" by name.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from .annotated import FORWARD, GENERATION
from .hardware import CategoryTime, Gaps, Kernel, KernelCategory, KernelProfile

R = TypeVar("R")
Device = Literal["cpu", "cuda"]
SpanKind = Literal["op", "kernel", "copy", "launch", "region"]

BETWEEN = "between forwards"
COMPILED_GRAPH = "compiled graph"
LONGEST_NAME = 200
LONGEST_KERNELS = 30
_WHOLE = "dlmbench.profiled"

# The first rule that matches a lower-case name decides.
#  - Attention first: its kernels carry the names of what they are built from (cutlass, gemm, softmax, mma).
#  - Sampling before normalisation ("normal_" draws noise), before copies ("gatherTopK", "sort ... gather") and before
#    products; no product or norm carries these words.
#  - Products before normalisation and copies: a fused epilogue keeps the product's name and adds the rest
#    ("addmm_rms_norm", "mm_copy"), and the product is where its time goes.
#  - Normalisation before copies: a fused norm mentions the casts around it ("_to_copy_mean_mul_pow_rsqrt").
_RULES: tuple[tuple[KernelCategory, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"attention|flash_|fmha|sdpa|(?<![a-z])mha(?![a-z])")),
    ("sampling", re.compile(
        r"arg_?max|arg_?min|sort(?!ed)|top_?k|top_?p_|multinomial|exponential|gumbel|cumsum|categorical|bernoulli"
        r"|uniform|random|philox|curand|distribution_|searchsorted|scan_innermost|scan_outer|devicescan|softmax_sampl"
        r"|(?<![a-z])normal_(?![a-z]*ized)|(?<![a-z])rand(?:n|int|perm)?(?![a-z])")),
    ("matmul", re.compile(
        r"gemm|gemv|cutlass|xmma|nvjet|matmul|splitk|mkldnn|onednn|dot_kernel|einsum|(?<![a-z])linear(?![a-z])"
        r"|(?<![a-z])(?:add|badd?|baddb|b|s)?mm(?![a-z])|(?<![a-z])(?:addmv|mv|dot)(?![a-z])")),
    ("normalisation", re.compile(
        r"(?:rms|layer|group|batch)_?norm|rsqrt|rowwisemoments|(?<![a-z])norm(?![a-z])")),
    ("copy", re.compile(
        r"memcpy|memset|copy|catarray|(?<![a-z])cat(?![a-z])|fill|zero_|gather|scatter|embedding|index_?(?:put|select"
        r"|fill|add|elementwise|kernel)|aten::index(?![a-z_])|masked_select|contiguous|clone|aten::(?:to|stack|pad|roll"
        r"|repeat|zeros|ones|full|item)(?![a-z])|constant_pad|local_scalar|take_along|transpose_kernel")),
)  # fmt: skip
_FUSED = re.compile(r"^triton_[a-z]+_fused_(.*?)_?\d*$")
# In a fused name a cast or an indexed load beside arithmetic is not what the kernel is for: only names of nothing else.
_FUSED_COPY = re.compile(
    r"^(?:_*(?:to_copy|copy_?|clone|cat|stack|fill|full(?:_like)?|zeros(?:_like)?|index(?:_put|_select)?|embedding|gather"
    r"|scatter|select(?:_scatter)?|slice(?:_scatter)?|view|expand|permute|transpose|unsqueeze|squeeze|constant_pad_nd"
    r"|repeat|t|_unsafe_view|lift_fresh))+$"
)

_ACTIVITY: dict[str, SpanKind] = {
    "cpu_op": "op",
    "user_annotation": "region",
    "kernel": "kernel",
    "gpu_memcpy": "copy",
    "gpu_memset": "copy",
    "cuda_runtime": "launch",
    "cuda_driver": "launch",
}
# The frames of a compiled call outside its graph: Python at work, announced as if it were an operator.
_FRAME = re.compile(r"Torch-Compiled Region|TorchDynamo |Pregraph bytecode|AOTDispatcher |profiler::|ProfilerStep")
_GRAPH = re.compile(r"^(?:## )?Call CompiledFxGraph|^inductor::|^CompiledFxGraph")
_RUNTIME = re.compile(r"^cu(?:da)?[A-Z]")
_NOT_WORK = re.compile(
    r"^(?:Activity Buffer Request|Buffer Flush|Instrumentation|Command Buffer Full|Lazy Function Loading|Resource"
    r"|Context Sync|Stream Sync|Event Sync|Stream Wait Event|Unrecognized)"
)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")


class Span(NamedTuple):
    """One thing that ran from `begin_s` to `end_s`, in seconds since the region's begin.

    `track` is a stream's number (kernel, copy) or a thread's, 1 being the one that generated. `own_s` is its time
    without the operators it calls, `depth` how many operators are around it, `leaf` that it calls none. `phase` is that
    of the forward that was running on the host when it was called or launched, `BETWEEN` if none was.
    """

    name: str
    kind: SpanKind
    category: KernelCategory
    begin_s: float
    end_s: float
    own_s: float
    track: int
    depth: int = 0
    leaf: bool = True
    phase: str = BETWEEN


@dataclass(frozen=True, slots=True)
class Profiled:
    """What ran in a region of `wall_s` seconds, in order of begin, and when that began on `time.monotonic` (seconds).

    Plain data: nothing of torch is kept alive by it.
    """

    device: Device
    wall_s: float
    began_s: float
    spans: tuple[Span, ...]

    def work(self, device: Device | None = None) -> tuple[Span, ...]:
        """What the device itself ran: operators on a CPU; kernels, copies and memsets on a GPU."""
        kinds = ("op",) if (device or self.device) == "cpu" else ("kernel", "copy")
        return tuple(span for span in self.spans if span.kind in kinds)

    def stacks(self) -> tuple[tuple[tuple[str, ...], float], ...]:
        """(phase, category, name) -> own seconds, summed over the device's work, for a flame-like figure.

        Sorted by path. Kernels that ran at the same time count twice.
        """
        seconds: dict[tuple[str, ...], float] = defaultdict(float)
        for span in self.work():
            seconds[span.phase, span.category, span.name] += span.own_s
        return tuple(sorted(seconds.items()))


@lru_cache(maxsize=8192)
def categorise(name: str, kind: SpanKind) -> KernelCategory:
    """What a kernel or operator is for, told by its name; the rules and their order are `_RULES`."""
    if kind == "copy":
        return "copy"
    lowered = name.lower()
    fused = _FUSED.match(lowered)
    if fused is not None and _FUSED_COPY.match(fused[1]):
        return "copy"
    for category, pattern in _RULES:
        if (fused is None or category != "copy") and pattern.search(lowered):
            return category
    return "other"


@lru_cache(maxsize=8192)
def clean_name(name: str) -> str:
    """A name fit for a table, a figure and a file: one line, no control characters, `LONGEST_NAME` characters at most.

    A long one keeps its beginning and its end: templates differ in their last arguments.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in _ESCAPE.sub("", name)).split())
    if len(plain) > LONGEST_NAME:
        plain = f"{plain[: LONGEST_NAME - 60]}…{plain[-59:]}"
    return plain or "(unnamed)"


def kind_of(name: str, activity: str | None, on_device: bool, annotation: bool) -> SpanKind | None:
    """What an event of the profiler is; None for what is no work (its own overhead, waits, a region's echo on a GPU).

    `activity` is the profiler's own word for it, None where this torch does not tell: then the name decides.
    """
    if not on_device and _GRAPH.match(name):
        return "op"
    if not on_device and _FRAME.match(name):
        return "region"
    if activity:
        return _ACTIVITY.get(activity)
    if _NOT_WORK.match(name):
        return None
    if on_device:
        return None if annotation else "copy" if name.startswith(("Memcpy", "Memset")) else "kernel"
    return "region" if annotation else "launch" if _RUNTIME.match(name) else "op"


def profiled(work: Callable[[], R], device: str) -> tuple[R, Profiled]:
    """Run `work` once under the torch profiler on `device` ("cpu", "cuda", "cuda:N"); returns its result and what ran.

    Whatever `work` raises goes through.
    """
    on: Device = "cuda" if device.startswith("cuda") else "cpu"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on == "cuda" else [])
    # The profiler's first use in a process costs milliseconds or, on CUDA, a second that is nobody's work.
    with profile(activities=activities, acc_events=False):
        pass
    with profile(activities=activities, acc_events=False) as session, record_function(_WHOLE):
        began = time.monotonic()
        result = work()
        if on == "cuda":
            torch.cuda.synchronize()
        elapsed = time.monotonic() - began
    return result, _assembled(_events(session), on, began, elapsed)


class Event(NamedTuple):
    """One event of the profiler as it came; `correlation` joins a kernel with its launch."""

    name: str
    kind: SpanKind
    begin_ns: int
    end_ns: int
    track: int
    correlation: int


def _events(session: profile) -> list[Event]:
    """Read the profiler's raw events: its parsed ones take several times as long and say no more that is used here."""
    results = getattr(session.profiler, "kineto_results", None)
    if results is None:
        return _parsed_events(session)
    found = []
    for event in results.events():
        name = event.name()
        tell = getattr(event, "activity_type", None)
        on_device = event.device_type() != DeviceType.CPU
        kind = kind_of(name, tell() if tell else None, on_device, event.is_user_annotation())
        # What ends on another thread than it began on nests in nothing.
        if kind is not None and not event.is_async():
            begin = event.start_ns()
            end = begin + event.duration_ns()
            found.append(Event(name, kind, begin, end, event.device_resource_id(), event.correlation_id()))
    return found


def _parsed_events(session: Any) -> list[Event]:
    """The same from `profile.events()`, for a torch without raw events."""
    found = []
    for event in session.events() or ():
        kind = kind_of(
            event.name,
            getattr(event, "activity_type", None),
            event.device_type != DeviceType.CPU,
            bool(getattr(event, "is_user_annotation", False)),
        )
        if kind is not None and not event.is_async:
            span = event.time_range
            begin, end = round(span.start * 1000), round(span.end * 1000)
            track = event.thread if event.device_type == DeviceType.CPU else event.device_resource_id
            found.append(Event(event.name, kind, begin, end, track, event.id))
    return found


def _assembled(events: Sequence[Event], device: Device, began_s: float, elapsed_s: float) -> Profiled:
    """Cut events to the region, nest those of each thread and attribute each to a phase and a category."""
    regions = {name: [e for e in events if e.kind == "region" and e.name == name] for name in (GENERATION, _WHOLE)}
    whole = regions[_WHOLE][0] if regions[_WHOLE] else None
    region = regions[GENERATION][0] if regions[GENERATION] else whole
    if region is None:
        return Profiled(device, max(elapsed_s, 1e-9), began_s, ())
    zero, last = region.begin_ns, region.end_ns
    inside = [
        event._replace(begin_ns=max(event.begin_ns, zero), end_ns=min(event.end_ns, last))
        for event in events
        if event.begin_ns <= last and event.end_ns >= zero and (event.name != _WHOLE or event is region)
    ]
    threads = {region.track: 1}
    for event in sorted((e for e in inside if e.kind not in ("kernel", "copy")), key=lambda e: e.begin_ns):
        threads.setdefault(event.track, len(threads) + 1)
    phase_at = _phases(inside)
    host, called_in = _nested([e for e in inside if e.kind not in ("kernel", "copy")], threads, zero, phase_at)
    spans = host + _launched([e for e in inside if e.kind in ("kernel", "copy")], called_in, zero, phase_at)
    spans.sort(key=lambda span: (span.begin_s, -span.end_s))
    offset = 0.0 if whole is None else (zero - whole.begin_ns) * 1e-9
    return Profiled(device, max(last - zero, 1) * 1e-9, began_s + offset, tuple(spans))


def _phases(events: Sequence[Event]) -> Callable[[int], str]:
    """Which forward's phase the host was in at a time, from the forwards' regions."""
    forwards = [e for e in events if e.kind == "region" and e.name.startswith(FORWARD)]
    forwards.sort(key=lambda e: e.begin_ns)
    begins = [event.begin_ns for event in forwards]

    def phase_at(at_ns: int) -> str:
        index = bisect_right(begins, at_ns) - 1
        if index < 0 or at_ns >= forwards[index].end_ns:
            return BETWEEN
        return clean_name(forwards[index].name.removeprefix(FORWARD))

    return phase_at


def _nested(
    events: list[Event], threads: dict[int, int], zero: int, phase_at: Callable[[int], str]
) -> tuple[list[Span], dict[int, tuple[int, KernelCategory]]]:
    """Operators, regions and launches of the host as spans, and correlation -> when it was launched, and for what."""
    order = sorted(events, key=lambda e: (e.track, e.begin_ns, -e.end_ns))
    ends, own, depth, leaf = [0] * len(order), [0] * len(order), [0] * len(order), [True] * len(order)
    category: list[KernelCategory] = ["other"] * len(order)
    launched: dict[int, tuple[int, KernelCategory]] = {}
    around: list[int] = []
    for index, event in enumerate(order):
        while around and (order[around[-1]].track != event.track or ends[around[-1]] <= event.begin_ns):
            around.pop()
        # Stamps of a caller and its callee may cross by some nanoseconds.
        ends[index] = min(event.end_ns, ends[around[-1]]) if around else event.end_ns
        own[index] = ends[index] - event.begin_ns
        caller = next((i for i in reversed(around) if order[i].kind == "op"), None)
        if caller is not None:
            depth[index], category[index] = depth[caller] + 1, category[caller]
        if event.kind == "op":
            if category[index] == "other":
                category[index] = "other" if _GRAPH.match(event.name) else categorise(event.name, "op")
            if caller is not None:
                leaf[caller] = False
                own[caller] -= own[index]
        elif event.kind == "launch":
            launched[event.correlation] = (event.begin_ns, category[index])
        around.append(index)
    spans = []
    for index, event in enumerate(order):
        graph = event.kind == "op" and _GRAPH.match(event.name)
        spans.append(
            Span(
                COMPILED_GRAPH if graph else clean_name(event.name),
                event.kind,
                category[index],
                (event.begin_ns - zero) * 1e-9,
                (ends[index] - zero) * 1e-9,
                own[index] * 1e-9,
                threads[event.track],
                depth[index],
                leaf[index],
                phase_at(event.begin_ns),
            )
        )
    return spans, launched


def _launched(
    events: list[Event],
    launched: dict[int, tuple[int, KernelCategory]],
    zero: int,
    phase_at: Callable[[int], str],
) -> list[Span]:
    """Kernels and copies of the device as spans."""
    spans = []
    for event in events:
        at, reason = launched.get(event.correlation, (event.begin_ns, "other"))
        category = categorise(event.name, event.kind)
        begin, end = (event.begin_ns - zero) * 1e-9, (event.end_ns - zero) * 1e-9
        spans.append(
            Span(
                clean_name(event.name),
                event.kind,
                reason if category == "other" else category,
                begin,
                end,
                end - begin,
                event.track,
                phase=phase_at(at),
            )
        )
    return spans


def busy_intervals(spans: Iterable[Span]) -> list[tuple[float, float]]:
    """The union of the spans as disjoint (begin, end), in seconds and in order."""
    union: list[tuple[float, float]] = []
    for begin, end in sorted((span.begin_s, span.end_s) for span in spans):
        if union and begin <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((begin, end))
    return union


def kernel_profile(
    profiled: Profiled, *, device: Device, output_tokens: int, forwards: int, median_latency_s: float | None
) -> KernelProfile:
    """Count up what ran: busy time, launches, categories, the longest kernels and the gaps between them.

    On a GPU launches are kernels, copies and memsets; on a CPU operators that call no other, while a name's own count
    is of all its calls. `median_latency_s` (s) is what the cell takes without a profiler, None where that is unknown.
    """
    work = profiled.work(device)
    by_category: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    by_name: dict[tuple[str, KernelCategory], list[float]] = defaultdict(lambda: [0.0, 0])
    for span in work:
        for total, launches in (
            (by_category[span.category], int(span.leaf)),
            (by_name[span.name, span.category], 1),
        ):
            total[0] += span.own_s
            total[1] += launches
    longest = sorted(by_name.items(), key=lambda item: (-item[1][0], item[0]))
    union = busy_intervals(work)
    return KernelProfile(
        device=device,
        wall_s=profiled.wall_s,
        busy_s=sum(end - begin for begin, end in union),
        launches=sum(span.leaf for span in work),
        output_tokens=output_tokens,
        forwards=forwards,
        overhead=profiled.wall_s / median_latency_s - 1 if median_latency_s else None,
        categories={
            name: CategoryTime(seconds=total[0], launches=int(total[1])) for name, total in sorted(by_category.items())
        },
        kernels=tuple(
            Kernel(name=name, category=category, launches=int(total[1]), seconds=total[0])
            for (name, category), total in longest[:LONGEST_KERNELS]
        ),
        others=max(0, len(longest) - LONGEST_KERNELS),
        gaps=_gaps(union),
    )


def _gaps(union: list[tuple[float, float]]) -> Gaps | None:
    lengths = np.array([after[0] - before[1] for before, after in pairwise(union)])
    if not len(lengths):
        return None
    return Gaps(
        count=len(lengths),
        total_s=float(lengths.sum()),
        median_s=float(np.median(lengths)),
        p99_s=float(np.percentile(lengths, 99)),
        longest_s=float(lengths.max()),
    )
