"""One reply's measures by hand: tokens one by one, blocks, one canvas, a stream that replaces what it showed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.profiles.serving.delivery import Delivery, revisions, settled


def blocks(count: int, size: int = 64, first: float = 0.5, every: float = 0.4) -> Delivery:
    at = tuple(first + i * every for i in range(count))
    return Delivery(at, tuple((i + 1) * size for i in range(count)), count * size, at[0])


# B = 64, 400 ms a block, 100 ms of prefill: what peers' formulas make of a token that takes 6.25 ms.
@pytest.mark.parametrize(
    ("count", "tpot_ms", "tok_s_user"), [(1, 0.0, None), (2, 3.15, 317.5), (4, 4.706, 212.5), (16, 5.865, 170.5)]
)
def test_peers_formulas_on_blocks(count: int, tpot_ms: float, tok_s_user: float | None) -> None:
    reply = blocks(count)
    peers = reply.peers
    assert peers["serving.peer_tpot_s"] == pytest.approx(tpot_ms * 1e-3, rel=1e-3)
    assert peers["serving.peer_tok_s_user"] == (None if tok_s_user is None else pytest.approx(tok_s_user, rel=1e-3))
    assert peers["serving.peer_itl_chunks_s"] == (None if count == 1 else pytest.approx(0.4))
    assert peers["serving.peer_tpot_with_ttft_s"] == reply.e2e_per_token_s
    truth = (0.1 + 0.4 * count) / (64 * count)
    assert reply.e2e_per_token_s == pytest.approx(truth)
    assert reply.tok_s_user == pytest.approx(1 / truth)


def test_times_to_k_and_portions() -> None:
    reply = blocks(3)
    assert [reply.time_to(k) for k in (1, 64, 65, 192, 193)] == [0.5, 0.5, 0.9, 1.3, None]
    assert [(round(b.at_s, 6), b.tokens) for b in reply.blocks] == [(0.5, 64), (0.9, 64), (1.3, 64)]
    assert reply.block_gaps_s == pytest.approx((0.4, 0.4))
    assert (reply.latency_s, reply.first_final_s) == (pytest.approx(1.3), 0.5)


def test_chunks_that_arrive_together_are_one_block() -> None:
    reply = Delivery((0.1, 0.1004, 0.1012, 0.5), (1, 2, 3, 4), 4, 0.1)
    assert [b.tokens for b in reply.blocks] == [3, 1]
    assert reply.block_gaps_s == pytest.approx((0.4,))
    assert len(reply.chunk_gaps_s) == 3
    apart = Delivery((0.1, 0.1004, 0.1012, 0.5), (1, 2, 3, 4), 4, 0.1, together_s=1e-4)
    assert len(apart.blocks) == 4


def test_without_a_count_what_needs_one_is_missing() -> None:
    reply = Delivery((0.1, 0.3), None, None, 0.1)
    assert (reply.first_final_s, reply.e2e_per_token_s, reply.tok_s_user, reply.time_to(1)) == (None,) * 4
    assert reply.peers["serving.peer_tpot_s"] is None
    assert reply.latency_s == 0.3
    one = Delivery((0.1,), (1,), 1, 0.1)
    assert one.peers["serving.peer_tpot_s"] is None


def test_what_stands_in_a_stream_that_replaces() -> None:
    assert settled(["ab xx", "ab cd", "ab cd ef"]) == (3, 5, 8)
    # The second text is right where the third is wrong again: it did not stand.
    assert settled(["abc", "xbc", "abc"]) == (0, 0, 3)
    assert settled(["abcdef", "abc"]) == (3, 3)
    assert settled(["same", "same"]) == (4, 4)
    assert revisions(["ab xx", "ab cd", "ab cd ef", "ab"]) == 2


@given(st.lists(st.text(alphabet="ab", max_size=6), min_size=1, max_size=6))
def test_settled_text_is_a_prefix_of_every_later_text(texts: list[str]) -> None:
    stood = settled(texts)
    assert list(stood) == sorted(stood)
    assert stood[-1] == len(texts[-1])
    for index, count in enumerate(stood):
        prefix = texts[-1][:count]
        assert all(text.startswith(prefix) for text in texts[index:])
        # And it is the longest such.
        if count < len(texts[-1]):
            longer = texts[-1][: count + 1]
            assert not all(text.startswith(longer) for text in texts[index:])
