"""Text and tables in GitHub-flavoured Markdown: what comes from a record reads as that text and as nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from .plain import plain

# What GitHub may read as markup inside a line: emphasis, code, links, HTML, entities, tables, math, headings and
# references; ":" only where it would make a bare link.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~$&#]|:(?=//)")
# An interval stays readable in the source: two numbers in brackets are a link only with a target behind them.
_INTERVAL = re.compile(r"\\\[([-+\d.,]+, [-+\d.,]+)\\\](?![(:\\])")


def escape(text: str) -> str:
    """`text` from a record as one line of Markdown that reads as that text and as nothing else."""
    escaped = _SPECIAL.sub(lambda match: f"\\{match[0]}", plain(text))
    return _INTERVAL.sub(r"[\1]", escaped)


def html(text: str) -> str:
    """Text inside an HTML element that also stands in Markdown: every special character as an entity."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", plain(text))


def table_lines(
    headers: Sequence[str], rows: Iterable[Iterable[str]], numbers: bool = False, right: Collection[int] = ()
) -> list[str]:
    """A table of escaped cells. The columns `right` are right-aligned; `numbers`: every one but the first."""
    aligned = range(1, len(headers)) if numbers else right
    rule = ["---:" if index in aligned else "---" for index in range(len(headers))]
    return [f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows)]


def code_block(text: str) -> list[str]:
    """A fenced block whose fence is longer than any run of backticks in `text`."""
    text = plain(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return [f"{fence}text", text, fence]
