"""Text from a record made safe to show: one line, no control characters, nothing that a terminal would obey.

Names and messages in a run come from suites, checkpoints and exceptions, so from anyone. Markup (`[red]`, `<b>`,
backticks) is not touched here: it is harmless until a renderer reads it, and each renderer escapes its own.
"""

from __future__ import annotations

import re
import unicodedata

# ECMA-48: CSI sequences (colours, cursor), strings ended by BEL or ST (titles, hyperlinks), two-character escapes;
# the C1 forms (U+009B, U+009D, ...) do the same in one character. A string that is never ended is left to the
# filter below, which takes its introducer and keeps its text, so that no message can swallow what follows it.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)

# Cc: controls. Cf: invisible format characters, with the overrides that turn the reading direction (U+202E), zero-width
# characters and tags. Cs: lone surrogates, which cannot be encoded. Zl, Zp: line and paragraph separators.
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str) -> str:
    """`text` as one line of visible characters: escape sequences dropped, every run of white space one space."""
    if text.isprintable():  # nothing of the above, and no white space but spaces: nearly every text, and much faster
        return " ".join(text.split())
    visible = (
        " " if character.isspace() else character
        for character in _ESCAPES.sub("", text)
        if character.isspace() or unicodedata.category(character) not in _DROPPED
    )
    return " ".join("".join(visible).split())
