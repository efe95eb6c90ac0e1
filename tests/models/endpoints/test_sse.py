"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dlmbench.models.endpoints.sse import DoneSeen, events


def read(*pieces: bytes) -> list[tuple[int, bytes]]:
    return list(events(enumerate(pieces)))


def test_an_event_is_stamped_when_its_end_arrives() -> None:
    assert read(b"data: a", b"b\n", b"\ndata: c\n\n") == [(2, b"ab"), (2, b"c")]


def test_all_line_ends_comments_other_fields_and_joined_data() -> None:
    assert read(b": hello\r\nevent: x\r\nid: 4\r\ndata: a\r\ndata:b\r\n\r\n") == [(0, b"a\nb")]
    assert read(b"data: a\r\rdata: b\r\r") == [(0, b"a"), (0, b"b")]
    assert read(b"\n\n:\n\nretry: 5\n\n") == []


def test_a_last_event_without_its_empty_line_is_given_to_whoever_can_tell_whether_it_is_whole() -> None:
    assert read(b"data: a\n\ndata: b\n") == [(0, b"a"), (0, b"b")]
    assert read(b"data: a\n\ndata: b") == [(0, b"a"), (0, b"b")]
    assert read(b"data: a\n\nevent: x") == [(0, b"a")]


@given(
    st.lists(st.binary(max_size=12).filter(lambda data: b"\n" not in data and b"\r" not in data), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_where_the_bytes_are_cut_makes_no_difference(texts: list[bytes], end: bytes, cuts: list[int]) -> None:
    stream = b"".join(b"data: " + text + end + end for text in texts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert [data for _, data in read(*pieces)] == texts
    # An event cannot be seen before all of it has arrived.
    arrived = 0
    for stamp, data in read(*pieces):
        arrived += len(data) + 6 + 2 * len(end)
        assert sum(len(piece) for piece in pieces[: stamp + 1]) >= arrived - len(end)


@given(st.integers(1, 13), st.sampled_from([b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n"]))
def test_done_is_seen_however_it_is_cut(cut: int, line: bytes) -> None:
    done = DoneSeen()
    assert not done(b'data: {"text": "say data: [DONE] now"}\n\n')
    assert not done(line[:cut]) or cut >= len(line.rstrip())
    assert done(line[cut:]) or cut >= len(line.rstrip())


def test_done_at_the_very_beginning() -> None:
    assert DoneSeen()(b"data: [DONE]")
    assert not DoneSeen()(b"x data: [DONE]")
