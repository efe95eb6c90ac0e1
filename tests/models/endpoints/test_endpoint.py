"""Base URLs, bodies, headers, keys and presets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlmbench import InputError
from dlmbench.models.endpoints.endpoint import Endpoint, base_url, is_loopback, is_public
from dlmbench.models.endpoints.key import HIDDEN, key_from
from dlmbench.models.endpoints.presets import preset, presets


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        (" https://example.org/v1/ ", "https://example.org/v1"),
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://[::1]:80/v1/completions", "http://[::1]:80/v1"),
    ],
)
def test_a_base_url_has_one_spelling(given: str, found: str) -> None:
    assert base_url(given) == found


@pytest.mark.parametrize(
    "given",
    ["", "localhost:8000", "ftp://h/v1", "http://", "http://h:99999/v1", "http://h:x/v1", "http://h/v1?a=b", "http://h/#x",
     "http://h:0/", "http://a b/v1", "http://h/\x1b[31m", "http://[::1/v1", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_base_url_is_refused(given: str) -> None:
    with pytest.raises(InputError):
        base_url(given)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        base_url("https://user:hunter2@example.org/v1")
    assert "hunter2" not in str(caught.value)


def test_public_and_private_addresses() -> None:
    assert not is_public("http://127.0.0.1:1/v1")
    assert not is_public("http://10.1.2.3/v1")
    assert not is_public("http://[::1]/v1")
    assert is_public("http://8.8.8.8/v1")
    assert is_public("http://no-such-host.invalid/v1")
    assert is_loopback("localhost")
    assert is_loopback("127.0.0.2")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


def test_bodies_of_both_methods() -> None:
    chat = Endpoint("http://h/v1", "m", ignore_eos="ignore_eos", extra={"top_k": 5})
    assert json.loads(chat.body("é\n", 7, 0.5)) == {
        "model": "m", "messages": [{"role": "user", "content": "é\n"}], "max_tokens": 7, "temperature": 0.5,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, "top_k": 5,
    }  # fmt: skip
    text = Endpoint("http://h/v1", "m", style="completions", stream=False)
    assert json.loads(text.body([1, 2], 7, None)) == {"model": "m", "prompt": [1, 2], "max_tokens": 7}
    assert (chat.target, text.target) == ("http://h/v1/chat/completions", "http://h/v1/completions")
    diffusing = Endpoint("http://h/v1", "m", replaces=True, diffusing="diffusing")
    assert json.loads(diffusing.body("x", 1, None))["diffusing"] is True


def test_a_key_leaves_in_its_header_alone(tmp_path: Path) -> None:
    key = key_from("K", None, {"K": " sk-0123456789 "})
    assert key is not None
    endpoint = Endpoint("http://h/v1", "m", key=key)
    assert endpoint.headers()["Authorization"] == "Bearer sk-0123456789"
    for shown in (repr(key), str(key), repr(endpoint), f"{endpoint}"):
        assert "sk-0123456789" not in shown
    assert key.hide("your key sk-0123456789 is wrong") == f"your key {HIDDEN} is wrong"
    assert key.hide("sk\\/0") == "sk\\/0"
    assert key_from("K", None, {}) is None
    assert key_from(None, None, {"K": "x"}) is None
    file = tmp_path / "key"
    file.write_text("sk-from-a-file\n")
    found = key_from("K", file, {"K": "other"})
    assert found is not None
    assert (found.header(), found.origin) == ("Bearer sk-from-a-file", "file key")


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", "schlüssel".encode(), b"\xff\xfe"])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        key_from(None, file)
    assert "words" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        key_from(None, tmp_path / "nowhere")


def test_presets() -> None:
    mercury = preset("mercury")
    assert (mercury.url, mercury.model) == ("https://api.inceptionlabs.ai/v1", "mercury-2")
    assert (mercury.key_env, mercury.diffusing, mercury.ignore_eos) == ("INCEPTION_API_KEY", "diffusing", None)
    assert {"vllm", "sglang", "transformers", "llamacpp", "dlmbench", "openai"} <= set(presets())
    for found in presets().values():
        assert found.url is None or base_url(found.url) == found.url
    with pytest.raises(InputError, match="expected one of mercury, vllm"):
        preset("nope")
