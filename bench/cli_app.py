"""What every command of the line shares: the application, its exit codes, options in common, output for programs.

Importing it imports neither torch nor pandas nor matplotlib.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import IO, Annotated, Any

import typer
from rich.console import Console

from .. import InputError

app = typer.Typer(
    name="dlmbench",
    help="How autoregressive and diffusion language models compare on real hardware, measured instead of asserted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

FAILED, BAD_INPUT, INCONCLUSIVE, INVALID, BUG, INTERRUPTED = 1, 2, 3, 4, 70, 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; messages go to stderr.")]


def items(text: str | None) -> tuple[str, ...]:
    """A comma-separated option."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(flag: str, text: str | None, least: int = 1) -> tuple[int, ...]:
    values = []
    for part in items(text):
        if not re.fullmatch(r"[0-9]{1,9}", part) or int(part) < least:
            raise InputError(f"{flag} {part!r}: expected integers from {least}, separated by commas")
        values.append(int(part))
    return tuple(values)


def print_json(document: Any) -> None:
    try:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        unread(sys.stdout)


class Pipeable(Console):
    """A console whose reader may go away (`| head`): the command goes on unread, and ends with its own exit code."""

    def on_broken_pipe(self) -> None:
        unread(self.file)


def unread(stream: IO[str]) -> None:
    """Nobody is left to read: what is still to come goes nowhere, also when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def console_of(to_stderr: bool = False) -> Console:
    return Pipeable(stderr=to_stderr, highlight=False)


def plain_json(value: Any) -> Any:
    """Nested data with every model, path and enum as plain JSON."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
