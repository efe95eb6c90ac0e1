"""The source's tokenizer: one token for each word or sign, with end-of-text and mask behind them.

    python -m dlmbench.models.source --write-tokenizer FOLDER

writes it as the tokenizer.json and tokenizer_config.json that Hugging Face's readers know, from the words of the
grammar. Decoding sets signs as English does ("the stars, and (some) moons"), and encoding takes that apart again.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ... import InputError
from ..tokenizer import EOS, MASK, Tokenizer, load_tokenizer

FOLDER = Path(__file__).parent
_LISTING = "python -m dlmbench.models.source --words"


class WordTokenizer(Tokenizer):
    """A tokenizer that refuses a word it does not know, where others would write a token for it."""

    __slots__ = ()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, in which capitals do not count. Raises InputError for a word that the source lacks."""
        try:
            return super().encode(text)
        except TypeError:
            raise
        except Exception:  # the binding raises plain Exception
            unknown = self._unknown(text)
        raise InputError(
            f"text: found {unknown[:40]!r}, which is none of the source's {self.vocab_size} tokens; expected words "
            f"that `{_LISTING}` prints; replace it"
        )

    def _unknown(self, text: str) -> str:
        pieces = self._backend.pre_tokenizer.pre_tokenize_str(self._backend.normalizer.normalize_str(text))
        return next((piece for piece, _ in pieces if self._backend.token_to_id(piece) is None), "a control token")


def token_ids(words: Sequence[str]) -> dict[str, int]:
    """Token -> id: the words in their order, then end-of-text, then the mask."""
    return {token: index for index, token in enumerate((*words, EOS, MASK))}


def source_tokenizer() -> Tokenizer:
    """The tokenizer that ships with the source."""
    plain = replace(load_tokenizer(FOLDER), name="dlmbench-source")
    return WordTokenizer(**{field.name: getattr(plain, field.name) for field in fields(plain)})


def write_tokenizer(words: Sequence[str], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json for `words` into `folder`; the same words, the same bytes."""
    # No unknown token: the model then refuses what it does not know.
    ids = token_ids(words)
    backend = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<|unknown|>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # which sets blanks between tokens
            decoders.Fuse(),
            *(decoders.Replace(f" {sign}", sign) for sign in ".,:;)]}”"),
            *(decoders.Replace(f"{sign} ", sign) for sign in "([{“"),
        ]
    )
    backend.add_special_tokens([EOS, MASK])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "mask_token": MASK}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
