"""From the trace of one generation to what is stored of it: a sample's numbers, and a timeline to draw.

A position is committed at its first write that the algorithm cannot revise. `time_to_k` follows the contiguous prefix:
it is the running maximum of the commit times, so it means the same for a sampler that commits left to right and for one
that commits in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .observer import Trace
from .record import Commit, ForwardSpan, LengthPolicy, Sample, Side, Timeline

_NEVER = np.inf
_TIMELINE_COMMITS = 4096


@dataclass(frozen=True, slots=True)
class Emission:
    """What one generation put out: emitted tokens per row [B], positions generated, and when each was committed.

    `committed_s` [B, L] is infinite where a position was never committed; `revealed_s` [B, L] is its running maximum.
    """

    rows_tokens: NDArray[np.int64]
    canvas_tokens: int
    committed_s: NDArray[np.float64]
    revealed_s: NDArray[np.float64]


def emission(trace: Trace, tokens: NDArray[np.int64], policy: LengthPolicy, eos_id: int | None) -> Emission:
    """Read commits and emitted lengths off a trace and the returned tokens [B, L].

    Under `natural` a row emits up to and with its first EOS; under `fixed`, all L tokens.
    """
    rows, length = tokens.shape
    committed = np.full((rows, length), _NEVER)
    generated = np.zeros((rows, length), dtype=np.bool_)
    for write in trace.writes:
        columns = slice(write.offset, write.offset + write.tokens.shape[1])
        generated[:, columns] |= write.written
        if write.committed:
            window = committed[:, columns]
            window[write.written & ~np.isfinite(window)] = write.at_s
    emitted = np.full(rows, length, dtype=np.int64)
    if policy == "natural" and eos_id is not None:
        ends = (tokens == eos_id) & np.isfinite(committed)
        emitted = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, np.isfinite(committed).sum(axis=1))
    return Emission(emitted, int(generated.sum()), committed, np.maximum.accumulate(committed, axis=1))


def time_to_k(emitted: Emission) -> dict[str, float]:
    """k -> median over the rows that emit k tokens of the time until their committed prefix has k. k: 1, 2, 4, …, L."""
    length = emitted.revealed_s.shape[1]
    curve: dict[str, float] = {}
    for k in sorted({*(2**i for i in range(length.bit_length()) if 2**i <= length), length}):
        times = emitted.revealed_s[emitted.rows_tokens >= k, k - 1]
        if times.size and np.isfinite(times).all():
            curve[str(k)] = float(np.median(times))
    return curve


def reduce_trace(
    trace: Trace,
    tokens: NDArray[np.int64],
    *,
    side: Side,
    policy: LengthPolicy,
    eos_id: int | None,
    block_length: int,
    order: int,
    round_index: int,
    prompt: int,
    seed: int,
    started_s: float,
    block_ends: Sequence[int] | None = None,
) -> tuple[Sample, Emission]:
    """The stored sample of one generation, tokens [B, L]. `block_length` is L for one block, 1 for AR.

    `block_ends` are the numbers of new tokens at which blocks end, where these are not of one length; empty where a
    generator has no blocks of its own.
    """
    out = emission(trace, tokens, policy, eos_id)
    target = [f for f in trace.forwards if f.network == "target"]
    longest = out.revealed_s[out.rows_tokens == out.rows_tokens.max()]
    revealed = np.median(longest, axis=0)
    # Blocks count whole, also the one that holds EOS: that is what was computed and committed.
    ends = revealed[block_length - 1 :: block_length] if block_ends is None else revealed[[e - 1 for e in block_ends]]
    ends = ends[np.isfinite(ends)]
    live = revealed[: int(out.rows_tokens.max())]
    gaps = np.diff(live) if side == "ar" and live.size > 1 and np.isfinite(live).all() else None
    curve = time_to_k(out)
    sample = Sample(
        order=order,
        round=round_index,
        prompt=prompt,
        seed=seed,
        started_s=started_s,
        latency_s=trace.latency_s,
        prefill_s=trace.prefill_s,
        forward_s=trace.forward_s,
        sampling_s=trace.sampling_s,
        idle_s=trace.idle_s,
        output_tokens=int(out.rows_tokens.sum()),
        canvas_tokens=out.canvas_tokens,
        nfe=len(target),
        draft_nfe=len(trace.forwards) - len(target),
        forward_tokens=sum(f.rows * f.q_len for f in trace.forwards),
        ttft_s=curve.get("1"),
        ttfb_s=float(ends[0]) if ends.size else None,
        block_latency_s=float(np.median(np.diff(ends))) if side == "diffusion" and ends.size > 1 else None,
        itl_s=None if gaps is None else float(np.median(gaps)),
        itl_p99_s=None if gaps is None or gaps.size < 100 else float(np.quantile(gaps, 0.99)),
        time_to_k_s=curve,
        rows_tokens=tuple(int(n) for n in out.rows_tokens),
        observer_events=trace.events,
    )
    return sample, out


def timeline(trace: Trace, sample_order: int, length: int) -> Timeline:
    """What the generation did for row 0, on one clock, for drawing."""
    commits = []
    for write in trace.writes[:_TIMELINE_COMMITS]:
        (columns,) = np.nonzero(write.written[0])
        if columns.size:
            positions = tuple(int(c) + write.offset for c in columns)
            ids = tuple(int(write.tokens[0, c]) for c in columns)
            commits.append(
                Commit(at_s=write.at_s, step=write.step, positions=positions, tokens=ids, final=write.committed)
            )
    spans = tuple(
        ForwardSpan(
            phase=f.phase, network=f.network, begin_s=f.begin_s, end_s=f.end_s, rows=f.rows, q_len=f.q_len,
            kv_len=f.kv_len, logit_rows=f.logit_rows, mask=f.mask,
        )
        for f in trace.forwards[:_TIMELINE_COMMITS]
    )  # fmt: skip
    return Timeline(
        sample_order=sample_order, latency_s=trace.latency_s, length=length, forwards=spans, commits=tuple(commits)
    )
