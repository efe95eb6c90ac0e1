"""`dlmbench trend`: a folder of runs as a page, PNGs, tables and a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from .. import InputError
from ..reports.history import read_history
from ..reports.trend import HEADLINE, make_trend
from ..reports.trend_document import trend_document
from ..reports.trend_page import write_trend
from ..reports.trend_terminal import show_trend
from .run_command import stored_run


def trend_command(
    folder: Path, metric: str | None, out: Path | None, command: Sequence[str], console: Console | None
) -> dict[str, Any]:
    """Write the page to `out` (the folder itself by default), show the tables on `console`, return the document."""
    trend = make_trend(read_history(folder, stored_run), metric or HEADLINE)
    try:
        files = write_trend(trend, out or folder, command)
    except OSError as error:
        raise InputError(f"{out or folder}: cannot be written ({error.strerror}); choose --out DIR") from None
    if console is not None:
        show_trend(trend, console)
        console.print(Text(str(files[-1])), soft_wrap=True)
    return {**trend_document(trend), "files": [str(path) for path in files]}
