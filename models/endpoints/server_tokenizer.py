"""The tokenizer of a server, asked over HTTP: exact for its model, wherever the vocabulary may be.

vLLM and SGLang (and `dlmbench serve`) answer `/tokenize` and `/detokenize` beside `/v1`, llama.cpp likewise with other
names. None of them is asked while a load runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ... import InputError
from ..tokenizer import Tokenizer
from .endpoint import Endpoint
from .untrusted import ask_json

Kind = Literal["vllm", "llamacpp"]
_ASK_S = 30.0
_ANSWER_B = 64 << 20
_PHRASE = "Two words, and a sign."


def server_tokenizer(endpoint: Endpoint, kind: Kind) -> Tokenizer:
    """The server's tokenizer. Raises InputError where it does not answer as one, or does not tell where tokens end."""
    backend = _Remote(endpoint, kind)
    encoded = backend.encode(_PHRASE)
    if not encoded.ids or encoded.offsets[-1][1] != len(_PHRASE):
        raise InputError("the server does not say where its tokens end; give --tokenizer a local one")
    name = f"the server's ({endpoint.model})"
    return Tokenizer(
        name=name,
        sha256="",  # nobody knows the file
        vocab_size=0,
        eos_id=None,
        mask_id=None,
        _backend=backend,  # type: ignore[arg-type]
        _control_ids=frozenset(),
    )


class _Encoding:
    """Ids of a text, and, where the server tells the tokens' own texts, where each of them ends."""

    def __init__(self, ids: list[int], texts: Sequence[str] | None, text: str) -> None:
        self.ids, self._texts, self._text = ids, texts, text

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """(begin, end) of each token, in characters. Raises InputError where that cannot be told."""
        found = None if self._texts is None else token_ends(self._texts, self._text)
        if found is None:
            raise InputError("the server does not say where its tokens end; give --tokenizer a local one")
        return [(0, end) for end in found]


class _Remote:
    """Has of `tokenizers.Tokenizer` what `Tokenizer` uses."""

    def __init__(self, endpoint: Endpoint, kind: Kind) -> None:
        self._endpoint, self._kind = endpoint, kind
        self._root = endpoint.url.removesuffix("/v1")

    def encode(self, text: str, add_special_tokens: bool = False) -> _Encoding:
        if self._kind == "llamacpp":
            found = self._ask("tokenize", {"content": text, "add_special": False, "with_pieces": True})
            tokens = found.get("tokens")
            if isinstance(tokens, list) and all(isinstance(each, dict) for each in tokens):
                pieces = [each.get("piece") for each in tokens]
                whole = pieces if all(isinstance(piece, str) for piece in pieces) else None
                return _Encoding(self._ids([each.get("id") for each in tokens]), whole, text)
            return _Encoding(self._ids(tokens), None, text)
        fields = {"model": self._endpoint.model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        found = self._ask("tokenize", fields)
        texts = found.get("token_strs")
        told = isinstance(texts, list) and all(isinstance(each, str) for each in texts)
        return _Encoding(self._ids(found.get("tokens")), texts if told else None, text)

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        if self._kind == "llamacpp":
            text = self._ask("detokenize", {"tokens": ids}).get("content")
        else:
            text = self._ask("detokenize", {"model": self._endpoint.model, "tokens": ids}).get("prompt")
        if not isinstance(text, str):
            raise self._no_tokenizer("detokenize")
        return text

    def _ids(self, tokens: Any) -> list[int]:
        if not isinstance(tokens, list) or not all(isinstance(each, int) for each in tokens):
            raise self._no_tokenizer("tokenize")
        return [*tokens]

    def _ask(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        url = f"{self._root}/{method}"
        found = ask_json(url, self._endpoint.key, limit_s=_ASK_S, most_b=_ANSWER_B, fields=fields)
        if not isinstance(found, dict):
            raise self._no_tokenizer(method)
        return found

    def _no_tokenizer(self, method: str) -> InputError:
        return InputError(
            f"--tokenizer server: {self._root}/{method} does not answer as a tokenizer; give a tokenizer.json"
        )


def token_ends(texts: Sequence[str], text: str) -> list[int] | None:
    """After how many characters of `text` each token is complete; None where the tokens' own texts do not add up.

    Byte-level vocabularies spell a token with one sign a byte, others with its characters and a mark for the blank;
    either way the lengths add up to those of the text, or the tokens are spelt in a way that is not known here.
    """
    sizes = [len(each) for each in texts]
    if sum(sizes) == len(text):
        return _running(sizes)
    data = text.encode()
    if sum(sizes) != len(data):
        return None
    # Characters that have begun by each byte: a token that ends inside one is complete with it.
    begun, count = [], 0
    for byte in data:
        count += byte & 0xC0 != 0x80
        begun.append(count)
    return [begun[end - 1] if end else 0 for end in _running(sizes)]


def _running(sizes: Sequence[int]) -> list[int]:
    total = 0
    return [total := total + size for size in sizes]
