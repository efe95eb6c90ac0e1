"""Text to token ids and back, with nothing in between that could change the text.

A benchmark needs three things of a tokenizer: that both sides of a pair use the same one (its hash is in the record),
that a prompt's length in tokens is exact, and that text from a user's file can never turn into a control token. The
last is not a matter of course: a Hugging Face tokenizer reads the characters `<|mask|>` in a prompt as *the* mask, and
a diffusion generator would then happily denoise the prompt.

The embedded tokenizer is a byte-level BPE of 4096 entries, trained on the texts in `models/text/`:

    python -m dlmbench.models.tokenizer tokenizer.json

Hugging Face's `tokenizers` does the work; neither torch nor transformers is imported here.
"""

import functools
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from .. import InputError

EOS = "<|endoftext|>"
MASK = "<|mask|>"
EMBEDDED_VOCAB_SIZE = 4096
TEXT_FOLDER = Path(__file__).parent / "text"

# Where a checkpoint may name its end-of-text and mask tokens; the first file that does so wins.
_NEIGHBOURS = ("tokenizer_config.json", "generation_config.json", "config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary and its rules.

    `sha256` is that of the tokenizer.json's bytes. `vocab_size` is the largest id plus one. `eos_id` and `mask_id` are
    null where the checkpoint names none; `mask_id` may lie beyond `vocab_size`, since some diffusion models append
    the mask to a tokenizer that has none.
    """

    name: str
    sha256: str
    vocab_size: int
    eos_id: int | None
    mask_id: int | None
    _backend: tokenizers.Tokenizer = field(repr=False, compare=False)
    _control_ids: frozenset[int] = field(repr=False, compare=False)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, none added and none of them a control token, whatever the text contains.

        A lone surrogate (half a UTF-16 pair) is no Unicode text and raises TypeError. InputError for a word that a
        tokenizer of whole words does not know.
        """
        encoding = self._encoding(text)
        ids: list[int] = encoding.ids
        return ids if self._control_ids.isdisjoint(ids) else [token for token, _ in self._spelt(encoding, text)]

    def ends(self, text: str) -> list[int]:
        """For each token of `encode`, the number of characters of `text` up to its end."""
        encoding = self._encoding(text)
        if self._control_ids.isdisjoint(encoding.ids):
            return [end for _, end in encoding.offsets]
        return [end for _, end in self._spelt(encoding, text)]

    def spelling(self, token: int) -> str | None:
        """How the vocabulary spells a token (byte-level ones with a sign for each byte); None for an id without one."""
        return self._backend.id_to_token(token)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the binding raises plain Exception
            if "UNK" not in str(error):
                raise
            raise InputError(
                f"tokenizer {self.name}: {shorten(text, 60)!r} holds a word that is not in its vocabulary; "
                "expected its own words only; change the text or the tokenizer"
            ) from None

    def _spelt(self, encoding: tokenizers.Encoding, text: str) -> Iterator[tuple[int, int]]:
        """(id, end) of each token. Some vocabularies (Unigram ones) hold "</s>" as an ordinary piece too: spelt letter
        by letter it is harmless."""
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token not in self._control_ids:
                yield token, end
                continue
            for place, character in enumerate(text[start:end], start + 1):
                for spelt in self._backend.encode(character, add_special_tokens=False).ids:
                    if spelt not in self._control_ids:
                        yield spelt, place

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, control tokens shown by name; an id that has no token shows nothing."""
        return self._backend.decode(ids, skip_special_tokens=False)


@functools.cache
def embedded_tokenizer() -> Tokenizer:
    """The tokenizer that ships with dlmbench: 4096 ids, of which the last is the mask."""
    data = (TEXT_FOLDER / "tokenizer.json").read_bytes()
    return _build("dlmbench-4096", data, EMBEDDED_VOCAB_SIZE - 2, EMBEDDED_VOCAB_SIZE - 1)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, or in a checkpoint folder that holds one.

    End-of-text and mask are taken from the configuration files beside it. Where several end-of-text ids are listed,
    the first counts. Raises InputError if something is missing or cannot be read.
    """
    # os.path's tests answer no where those of Path raise, and read_file() then says what is wrong.
    file = path / "tokenizer.json" if os.path.isdir(path) else path
    data = read_file(file, "a tokenizer.json, or a folder that holds one")
    name = file.resolve().parent.name if file.name == "tokenizer.json" else file.stem
    try:
        backend = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the binding raises plain Exception, and ValueError for bytes that are not UTF-8
        raise InputError(
            f"{shown(file)}: not a tokenizer: {str(error)[:120]!r}; expected a tokenizer.json as written by "
            "Hugging Face's `save_pretrained`; save the tokenizer again"
        ) from None
    eos_id, mask_id = _control_tokens(file.parent, backend)
    return _build(name, data, eos_id, mask_id)


def train_embedded(texts: Iterable[str], out: Path) -> None:
    """Train the embedded tokenizer on `texts` and write its tokenizer.json to `out`; the same texts, the same bytes.

    Raises ValueError if the texts are too short to yield the whole vocabulary.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    controls = [EOS, MASK]
    trainer = trainers.BpeTrainer(
        vocab_size=EMBEDDED_VOCAB_SIZE - len(controls),
        # The texts are small: the pairs that occur twice fill three quarters of the vocabulary.
        min_frequency=1,
        # All 256 bytes, so that any text can be written, also in scripts that the training text lacks.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # Added after the training and not by the trainer, which would put them first: the mask has to be the last id, so
    # that a model can leave it out of its output layer by dropping a row.
    backend.add_special_tokens(controls)
    if backend.get_vocab_size() != EMBEDDED_VOCAB_SIZE:
        raise ValueError(f"the texts yield {backend.get_vocab_size()} tokens, not {EMBEDDED_VOCAB_SIZE}: add text")
    out.write_text(backend.to_str() + "\n", encoding="utf-8")


def embedded_texts() -> list[tuple[str, str]]:
    """Name and content of each shipped text, in the order of their names."""
    return [(file.stem, file.read_text(encoding="utf-8")) for file in sorted(TEXT_FOLDER.glob("*.txt"))]


def read_file(path: Path, expected: str) -> bytes:
    """The bytes of a file that the user named; InputError, which says what was `expected`, if there is none to read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{shown(path)}: no such file; expected {expected}; check the path") from None
    except PermissionError:
        raise InputError(f"{shown(path)}: no permission to read it; expected {expected}; change its mode") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown(path)}: cannot be read ({reason}); expected {expected}; check the path") from None
    # Workers open the same path again, and a pipe can be read only once.
    found = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
    raise InputError(f"{shown(path)}: found {found}; expected {expected}; name a file")


def shown(path: Path) -> str:
    """The path as one harmless line: quoted if its name holds line breaks, terminal escapes or stray bytes."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _build(name: str, data: bytes, eos_id: int | None, mask_id: int | None) -> Tokenizer:
    """`data` is a valid tokenizer.json."""
    rules = json.loads(data)
    named = {eos_id, mask_id} - {None}
    for token in rules.get("added_tokens") or []:
        # Only tokens flagged as special can be told apart from text, and not every checkpoint flags its mask.
        token["special"] = bool(token.get("special")) or token.get("id") in named
    backend = tokenizers.Tokenizer.from_str(json.dumps(rules))
    # A tokenizer.json may carry the truncation or padding of whoever saved it.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # which means: as text
    added = backend.get_added_tokens_decoder()
    controls = {index for index, token in added.items() if token.special}
    controls.update(index for index in named if index is not None)
    return Tokenizer(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        eos_id=eos_id,
        mask_id=mask_id,
        _backend=backend,
        _control_ids=frozenset(controls),
    )


def _control_tokens(folder: Path, backend: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """Ids of end-of-text and mask, as the configuration files in `folder` name them."""
    eos_id: int | None = None
    mask_id: int | None = None
    for file in (folder / name for name in _NEIGHBOURS):
        if not os.path.isfile(file):
            continue
        try:
            config = json.loads(read_file(file, "a JSON object"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise InputError(
                f"{shown(file)}: not a JSON object; expected a checkpoint's configuration; download it again"
            )
        eos_id = _named_id(config, "eos", backend) if eos_id is None else eos_id
        mask_id = _named_id(config, "mask", backend) if mask_id is None else mask_id
    return eos_id, mask_id


def _named_id(config: dict[str, object], role: str, backend: tokenizers.Tokenizer) -> int | None:
    """The id under `<role>_token` (a text, or an object holding one) or `<role>_token_id` (a number or several)."""
    token = config.get(f"{role}_token")
    content = token.get("content") if isinstance(token, dict) else token
    if isinstance(content, str) and (index := backend.token_to_id(content)) is not None:
        return index
    value = config.get(f"{role}_token_id")
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) and not isinstance(first, bool) and first >= 0 else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m dlmbench.models.tokenizer OUT.json")
    train_embedded((text for _, text in embedded_texts()), Path(sys.argv[1]))
