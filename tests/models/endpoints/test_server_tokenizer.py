"""Where tokens end, from how a server spells them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.models.endpoints.endpoint import Endpoint
from dlmbench.models.endpoints.server_tokenizer import server_tokenizer, token_ends
from dlmbench.models.endpoints.tokens import tokenised
from dlmbench.models.tokenizer import embedded_tokenizer


@given(st.text(max_size=40))
def test_byte_level_spellings_say_where_tokens_end(text: str) -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text)
    spelt = [tokenizer.spelling(token) for token in ids]
    ends = token_ends([each or "" for each in spelt], text)
    assert ends is not None
    assert tuple(ends) == tokenised(tokenizer, text).ends


def test_marks_for_blanks_and_spellings_that_do_not_add_up() -> None:
    assert token_ends(["He", "llo", "\u2581you"], "Hello you") == [2, 5, 9]
    assert token_ends(["<0xE2>", "x"], "\u2581x") is None
    assert token_ends([], "") == []


def test_a_server_without_a_tokenizer() -> None:
    with pytest.raises(InputError, match="does not answer as a tokenizer"):
        server_tokenizer(Endpoint("http://127.0.0.1:9/v1", "m"), "vllm")
