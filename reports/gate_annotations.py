"""The gate as annotations: GitHub's workflow commands, which put what is wrong on top of the run's page.

They are printed only when asked for, or where GITHUB_ACTIONS says that GitHub reads the log. Names and messages come
from anyone; escaped as GitHub's documentation says (workflow commands for GitHub Actions), none can end its property,
its line or its command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..profiles.gate import Reasoned
from ..profiles.gate_record import GateDocument
from .gate_rows import green, ordered, sentence
from .plain import plain

MOST = 10  # errors that GitHub shows of one step


def print_annotations(
    document: GateDocument, write: Callable[[str], object], environ: Mapping[str, str], asked: bool | None = None
) -> None:
    """Give every annotation to `write` as one line; `asked` None: only where the environment is GitHub's."""
    if environ.get("GITHUB_ACTIONS") == "true" if asked is None else asked:
        for line in annotation_lines(document):
            write(line + "\n")


def annotation_lines(document: GateDocument) -> list[str]:
    """An error for each cell that is not green, the worst first, at most `MOST`; the last then says how many more.

    A gate with a verdict that no cell explains gets one of its own; a green gate gets none.
    """
    result = document.result
    if green(result.verdict, result.policy):
        return []
    found = [
        _error(cell.outcome, cell.key, cell.outcome.message)
        for cell in ordered(result.cells)
        if not green(cell.outcome.verdict, result.policy)
    ]
    if all(cell.outcome.verdict != result.verdict for cell in result.cells):
        found.insert(0, _error(result.outcome, "gate", sentence(result)))
    if len(found) > MOST:
        left = len(found) - (MOST - 1)
        found[MOST - 1 :] = [_error(result.outcome, "gate", f"{left} more cells are not green: {sentence(result)}")]
    return found


def _error(outcome: Reasoned, what: str, message: str) -> str:
    title = f"{outcome.verdict} {plain(what)}"
    return f"::error title={_property(title)}::{_data(plain(message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
