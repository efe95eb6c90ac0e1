"""Whatever a server sends becomes a record that can be written: no value of its is trusted."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.bench.load.driver import Asked
from dlmbench.bench.load.reading import read_asked, usage_warning
from dlmbench.models.endpoints.client import Exchange
from dlmbench.models.endpoints.endpoint import Endpoint
from dlmbench.models.endpoints.untrusted import clean, clean_text
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.profiles.serving.record import RequestRecord

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([10**400, -1, 10**13, 1 << 63, "\ud800", "", "x" * 9999]),
    st.floats(), st.text(max_size=6), st.lists(st.integers(), max_size=3), st.just({"a": {"b": {"c": 1}}}),
)  # fmt: skip
PLACES = (
    ("choices", 0, "delta", "content"), ("choices", 0, "delta", "reasoning_content"), ("choices", 0, "finish_reason"),
    ("choices", 0, "index"), ("choices", 0), ("choices",), ("usage",), ("usage", "completion_tokens"),
    ("usage", "prompt_tokens"), ("dlmbench",), ("dlmbench", "sent_ns"), ("dlmbench", "received_ns"),
    ("dlmbench", "work"), ("error",), ("error", "message"),
)  # fmt: skip


def chunk() -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 1, "prompt_tokens": 1},
        "dlmbench": {"sent_ns": 5, "received_ns": 1, "work": {"nfe": 1}},
    }


def record(documents: list[Any], **fields: Any) -> RequestRecord:
    """What a stream of these documents comes to."""
    lines = [f"data: {json.dumps(document)}\n\n".encode() for document in documents]
    pieces = [(1000 * (number + 2), line) for number, line in enumerate([*lines, b"data: [DONE]\n\n"])]
    exchange = Exchange(1000, 1500, pieces, pieces[-1][0], 200, "text/event-stream")
    asked = Asked(0, "counted", 900, 1000, exchange=exchange)
    return read_asked(0, asked, 900, Endpoint("http://h/v1", "m", **fields), embedded_tokenizer(), 8)


def put(node: Any, place: tuple[Any, ...], leaf: Any) -> None:
    """Set a value in nested JSON, where its place is still there."""
    with contextlib.suppress(TypeError, KeyError, IndexError):
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = copy.deepcopy(leaf)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), LEAVES), min_size=1, max_size=3), st.booleans())
def test_hostile_replies_become_records(changes: list[tuple[tuple[Any, ...], Any]], replaces: bool) -> None:
    documents = [chunk(), chunk()]
    for place, leaf in changes:
        put(documents[1], place, leaf)
    found = record(documents, replaces=replaces, diffusing="diffusing")
    assert RequestRecord.model_validate_json(found.model_dump_json()).status == found.status
    usage_warning([found])


def test_a_chunk_that_says_nothing_of_the_text_leaves_it_as_it_was() -> None:
    first, second = chunk(), {"choices": [{"index": 0, "delta": {"reasoning_content": " hm"}}]}
    found = record([first, second], replaces=True, diffusing="diffusing")
    assert (found.status, found.output_tokens, found.revised) == ("ok", len(embedded_tokenizer().encode("Hello")), 0)
    assert found.chunks[0][1] == found.output_tokens


def test_untrusted_values_are_bounded() -> None:
    assert clean("\ud800x\n  y") == "?x y"
    assert clean({"a": [1, 2.5, True, None, float("nan"), 1 << 70, object()]}) == {
        "a": [1, 2.5, True, None, None, None, None]
    }
    assert len(clean(["x"] * 999)) == 64
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    assert json.dumps(clean(deep)) == "[[[[null]]]]"
    assert clean_text("x" * 999) == "x" * 300
