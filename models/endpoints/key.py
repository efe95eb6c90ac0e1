"""An API key that cannot be printed by accident, and text from which it has been taken."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import InputError

HIDDEN = "[key]"
# Shorter ones would be found inside words, and could not be taken out of what a server repeats.
_LEAST = 8


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A bearer token. `origin` says where it came from and may be shown; the token leaves through `header` alone."""

    _token: str
    origin: str

    def __repr__(self) -> str:
        return f"Key({self.origin})"

    def header(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._token}"

    def hide(self, text: str) -> str:
        """`text` without the token: a server may repeat what it was sent in what it answers, as it is or as JSON spells
        it. Hide before cutting: half a key is no longer found."""
        for spelt in (self._token, self._token.replace("/", "\\/"), json.dumps(self._token)[1:-1]):
            text = text.replace(spelt, HIDDEN)
        return text


def key_from(name: str | None, file: Path | None, environment: Mapping[str, str] = os.environ) -> Key | None:
    """The key in a file, or else in an environment variable; None where neither is named or the variable is not set.

    Raises InputError, which never repeats what it read, for a file that cannot be read or holds no key.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(f"--key-file {file}: not UTF-8 text; expected a file that holds a key alone") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no such name"
            raise InputError(
                f"--key-file {str(file)[:80]}: cannot be read ({why}); give a file that holds a key"
            ) from None
        return _key(text, f"file {file.name}")
    text = environment.get(name, "").strip() if name else ""
    return _key(text, f"environment variable {name}") if text else None


def _key(token: str, origin: str) -> Key:
    if len(token) < _LEAST or not all("!" <= character <= "~" for character in token):
        raise InputError(
            f"key from {origin}: expected one word of printable ASCII, {_LEAST} characters or more; check what is there"
        )
    return Key(token, origin)
