"""From a trace made by hand to a sample's numbers, the arithmetic beside each."""

from typing import Any

import numpy as np
import pytest

from dlmbench.profiles.observer import Forward, Trace, Write
from dlmbench.profiles.record import Sample
from dlmbench.profiles.reduction import emission, reduce_trace, time_to_k, timeline

EOS = 99


def write(
    at_s: float, offset: int, tokens: list[list[int]], written: list[list[int]] | None = None, **more: Any
) -> Write:
    ids = np.array(tokens, dtype=np.int64)
    mask = np.ones(ids.shape, dtype=bool) if written is None else np.array(written, dtype=bool)
    return Write(at_s=at_s, offset=offset, tokens=ids, written=mask, **({"step": 0, "committed": True} | more))


def forward(network: str = "target", rows: int = 2, q_len: int = 1) -> Forward:
    return Forward(network, "decode", rows, q_len, 9, rows, "causal", 0.0, 0.5)


def trace(writes: list[Write], forwards: list[Forward] | None = None, latency_s: float = 10.0) -> Trace:
    return Trace(latency_s, tuple(forwards or ()), tuple(writes), 1.0, 2.0, 3.0, 4.0, 17)


def reduced(seen: Trace, tokens: list[list[int]], **options: Any) -> Sample:
    defaults = {"side": "ar", "policy": "fixed", "eos_id": EOS, "block_length": 1}
    place = {"order": 3, "round_index": 2, "prompt": 5, "seed": 7, "started_s": 1.5}
    sample, _ = reduce_trace(seen, np.array(tokens, dtype=np.int64), **(defaults | place | options))
    return sample


def left_to_right(times: list[float], rows: int = 1) -> tuple[Trace, list[list[int]]]:
    """A trace that commits column i of every row at times[i]."""
    tokens = [[10 + i for i in range(len(times))]] * rows
    return trace([write(at, i, [[10 + i]] * rows) for i, at in enumerate(times)]), tokens


def test_ar_by_hand() -> None:
    seen, tokens = left_to_right([2.0, 3.0, 5.0, 6.0, 10.0], rows=2)
    sample = reduced(seen, tokens)
    assert sample.output_tokens == sample.canvas_tokens == 10
    assert sample.rows_tokens == (5, 5)
    assert sample.ttft_s == sample.ttfb_s == 2.0
    # k = 1, 2, 4 and the length.
    assert sample.time_to_k_s == {"1": 2.0, "2": 3.0, "4": 6.0, "5": 10.0}
    assert sample.itl_s == 1.5  # gaps 1, 2, 1, 4
    assert sample.itl_p99_s is None  # four gaps say nothing of a 99th percentile
    assert sample.block_latency_s is None  # an AR generator has no blocks


def test_what_the_caller_knows_is_kept() -> None:
    seen, tokens = left_to_right([2.0, 3.0])
    sample = reduced(seen, tokens)
    assert (sample.order, sample.round, sample.prompt, sample.seed, sample.started_s) == (3, 2, 5, 7, 1.5)
    parts = (sample.prefill_s, sample.forward_s, sample.sampling_s, sample.idle_s)
    assert parts == (1.0, 2.0, 3.0, 4.0)
    assert sample.latency_s == 10.0 == sum(parts)
    assert sample.observer_events == 17


def test_a_tail_needs_a_hundred_gaps() -> None:
    # 100 gaps: 99 of 1 s, one of 101 s. Its 99th percentile lies at index 98.01: 1 + 0.01 x 100.
    times = [float(i) for i in range(100)] + [200.0]
    sample = reduced(*left_to_right(times))
    assert sample.itl_s == 1.0
    assert sample.itl_p99_s == pytest.approx(2.0)
    assert reduced(*left_to_right(times[:100])).itl_p99_s is None


def test_one_token_has_no_gap() -> None:
    sample = reduced(*left_to_right([2.0]))
    assert sample.ttft_s == 2.0
    assert sample.itl_s is None
    assert sample.time_to_k_s == {"1": 2.0}


def test_any_order_of_commits() -> None:
    """Columns 3, 0, 2, 1 at 1, 2, 3, 4 s: the prefix has one token at 2, and all four only when column 1 comes."""
    seen = trace(
        [write(1.0, 3, [[13]]), write(2.0, 0, [[10]]), write(3.0, 2, [[12]]), write(4.0, 1, [[11]])],
    )
    sample = reduced(seen, [[10, 11, 12, 13]], side="diffusion", block_length=4)
    assert sample.time_to_k_s == {"1": 2.0, "2": 4.0, "4": 4.0}
    assert sample.ttft_s == 2.0
    assert sample.ttfb_s == 4.0
    assert sample.itl_s is None  # it would mean nothing
    assert sample.block_latency_s is None  # one block


def test_blocks_by_hand() -> None:
    """Three blocks of two, complete at 2, 5 and 9 s; inside a block either column comes first."""
    order = [(1.0, 1), (2.0, 0), (4.0, 2), (5.0, 3), (6.0, 5), (9.0, 4)]
    seen = trace([write(at, column, [[10 + column]]) for at, column in order])
    sample = reduced(seen, [[10, 11, 12, 13, 14, 15]], side="diffusion", block_length=2)
    assert sample.ttfb_s == 2.0
    assert sample.block_latency_s == 3.5  # gaps 3 and 4
    assert sample.time_to_k_s == {"1": 2.0, "2": 2.0, "4": 5.0, "6": 9.0}


def test_rows_count_by_their_median() -> None:
    """Three rows have their first token at 1, 2 and 6 s, their second at 7, 3 and 8 s."""
    seen = trace(
        [
            write(1.0, 0, [[1], [1], [1]], [[1], [0], [0]]),
            write(2.0, 0, [[1], [1], [1]], [[0], [1], [0]]),
            write(3.0, 1, [[1], [1], [1]], [[0], [1], [0]]),
            write(6.0, 0, [[1], [1], [1]], [[0], [0], [1]]),
            write(7.0, 1, [[1], [1], [1]], [[1], [0], [0]]),
            write(8.0, 1, [[1], [1], [1]], [[0], [0], [1]]),
        ]
    )
    sample = reduced(seen, [[1, 1]] * 3, side="diffusion", block_length=1)
    assert sample.time_to_k_s == {"1": 2.0, "2": 7.0}
    assert sample.ttfb_s == 2.0
    assert sample.block_latency_s == 5.0


def test_a_write_that_may_be_revised_commits_nothing() -> None:
    seen = trace(
        [
            write(1.0, 0, [[5, 6]], committed=False),
            write(2.0, 0, [[7, 6]], [[1, 0]]),
            write(3.0, 0, [[7, 8]], [[0, 1]]),
        ]
    )
    sample = reduced(seen, [[7, 8]], side="diffusion", block_length=2)
    assert sample.time_to_k_s == {"1": 2.0, "2": 3.0}
    assert sample.canvas_tokens == 2  # positions, not writes


def test_only_the_first_commit_counts() -> None:
    seen = trace([write(1.0, 0, [[5, 6]]), write(4.0, 0, [[5, 6]])])
    assert reduced(seen, [[5, 6]]).time_to_k_s == {"1": 1.0, "2": 1.0}


def test_natural_counts_up_to_and_with_the_first_eos() -> None:
    """Row 0 ends with its second token, row 1 never; row 0's later columns are whatever memory held."""
    seen = trace(
        [
            write(1.0, 0, [[5], [5]]),
            write(2.0, 1, [[EOS], [6]]),
            write(3.0, 2, [[0], [7]], [[0], [1]]),
            write(4.0, 3, [[0], [8]], [[0], [1]]),
        ]
    )
    tokens = [[5, EOS, 0, EOS], [5, 6, 7, 8]]
    sample = reduced(seen, tokens, policy="natural")
    assert sample.rows_tokens == (2, 4)
    assert sample.output_tokens == 6
    assert sample.canvas_tokens == 6
    # Only row 1 emits four.
    assert sample.time_to_k_s == {"1": 1.0, "2": 2.0, "4": 4.0}
    assert sample.itl_s == 1.0


def test_natural_diffusion_pays_for_its_canvas() -> None:
    """Blocks of two; EOS in column 1 of row 0, column 2 of row 1. The third block was never begun."""
    seen = trace([write(1.0, 0, [[5, EOS], [5, 6]]), write(2.0, 2, [[7, 8], [EOS, 9]])])
    tokens = [[5, EOS, 7, 8, 0, EOS], [5, 6, EOS, 9, 0, 0]]
    sample = reduced(seen, tokens, side="diffusion", block_length=2, policy="natural")
    assert sample.rows_tokens == (2, 3)
    assert sample.output_tokens == 5
    assert sample.canvas_tokens == 8
    assert sample.time_to_k_s == {"1": 1.0, "2": 1.0}  # nobody emits 4 or 6
    assert sample.ttfb_s == 1.0


def test_an_eos_that_was_never_committed_ends_nothing() -> None:
    seen = trace([write(1.0, 0, [[5]])])
    sample = reduced(seen, [[5, EOS, EOS]], policy="natural")
    assert sample.rows_tokens == (1,)


@pytest.mark.parametrize(("policy", "eos"), [("fixed", EOS), ("natural", None)])
def test_otherwise_eos_is_a_token_like_any_other(policy: str, eos: int | None) -> None:
    seen = trace([write(1.0, 0, [[5, EOS, 6, 7]])])
    sample = reduced(seen, [[5, EOS, 6, 7]], policy=policy, eos_id=eos)
    assert sample.output_tokens == 4
    assert sample.time_to_k_s == {"1": 1.0, "2": 1.0, "4": 1.0}


def test_work_is_counted_by_network() -> None:
    seen, tokens = left_to_right([1.0, 2.0])
    seen = trace(
        list(seen.writes), [forward(rows=2, q_len=5), forward(rows=2), forward("draft", rows=2, q_len=3), forward()]
    )
    sample = reduced(seen, tokens)
    assert (sample.nfe, sample.draft_nfe) == (3, 1)
    assert sample.forward_tokens == 2 * 5 + 2 + 2 * 3 + 2


def test_what_was_never_committed_has_no_time() -> None:
    """Missing is None, never NaN, infinity or 0."""
    seen = trace([write(1.0, 0, [[5, 6, 7, 8]], committed=False)])
    for side, block in (("ar", 1), ("diffusion", 2)):
        sample = reduced(seen, [[5, 6, 7, 8]], side=side, block_length=block)
        assert sample.time_to_k_s == {}
        assert (sample.ttft_s, sample.ttfb_s) == (None, None)
        assert (sample.itl_s, sample.block_latency_s) == (None, None)


def test_a_first_block_that_holds_the_eos_was_committed_all_the_same() -> None:
    """`natural`, one block of four complete at 3 s, EOS in its second column."""
    seen = trace([write(2.0, 0, [[5, EOS, 0, 0]], [[1, 1, 0, 0]]), write(3.0, 0, [[5, EOS, 6, 7]], [[0, 0, 1, 1]])])
    sample = reduced(seen, [[5, EOS, 6, 7]], side="diffusion", block_length=4, policy="natural")
    assert sample.rows_tokens == (2,)
    assert sample.ttfb_s == 3.0


def test_the_emission_tells_never_from_late() -> None:
    out = emission(trace([write(1.0, 0, [[5]]), write(3.0, 2, [[7]])]), np.array([[5, 0, 7]]), "fixed", None)
    assert out.committed_s.tolist() == [[1.0, np.inf, 3.0]]
    assert out.revealed_s.tolist() == [[1.0, np.inf, np.inf]]
    assert out.canvas_tokens == 2
    assert time_to_k(out) == {"1": 1.0}


def test_a_timeline_shows_row_0() -> None:
    seen = trace(
        [
            write(1.0, 4, [[5, 6], [7, 8]], [[0, 1], [1, 0]], step=0),
            write(2.0, 4, [[5, 6], [7, 8]], [[0, 0], [1, 1]], step=1),
            write(3.0, 4, [[5, 6], [7, 8]], [[1, 0], [0, 0]], step=2, committed=False),
        ],
        [forward()],
    )
    line = timeline(seen, sample_order=6, length=8)
    assert (line.sample_order, line.length, line.latency_s) == (6, 8, 10.0)
    assert [(c.at_s, c.step, c.positions, c.tokens, c.final) for c in line.commits] == [
        (1.0, 0, (5,), (6,), True),
        (3.0, 2, (4,), (5,), False),
    ]
    (span,) = line.forwards
    assert (span.phase, span.rows, span.kv_len, span.begin_s, span.end_s) == ("decode", 2, 9, 0.0, 0.5)
