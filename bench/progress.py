"""What a person sees while a run goes on: a live panel on a terminal, plain lines elsewhere.

Nothing is drawn by a timer: the display is refreshed by the measuring loop, between samples, so that no thread of ours
runs inside a timed region.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..profiles.record import Cell, Reason

_REFRESH_S = 0.25
_LINE_S = 10.0


class Progress:
    """Watches a sweep. Use as a context manager, so that the terminal is restored whatever happens."""

    def __init__(self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._quiet, self._clock = console, quiet, clock
        self._started = clock()
        self._pairing, self._process, self._number, self._total = "", 0, 0, 1
        self._cell, self._phase, self._count = "", "", 0
        self._width: float | None = None
        self._drawn = 0.0
        live = console.is_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def pairing(self, name: str, process: int, number: int, total: int) -> None:
        """A pairing begins: `number` of `total`, in process round `process`."""
        self._pairing, self._process, self._number, self._total = name, process, number, total
        self._cell, self._phase, self._count, self._width = "", "starting workers", 0, None
        self._draw(force=True)

    def cell(self, cell: Cell, phase: str) -> None:
        """A phase of a cell begins: prepare, warm-up or sampling."""
        self._cell, self._phase = cell.key, phase
        if phase != "sampling":
            self._draw(force=False)

    def sampled(self, cell: Cell, count: int, half_width: float | None) -> None:
        """A sample has been taken; `half_width` is relative."""
        self._cell, self._count, self._width = cell.key, count, half_width
        self._draw(force=False)

    def say(self, text: str) -> None:
        """What is being done now, in a line that stays."""
        if not self._quiet:
            self._console.print(Text(text, style="dim"), soft_wrap=True)

    def show(self, draw: Callable[[Console], None]) -> None:
        """Draw something for a person to read, above the panel."""
        if not self._quiet:
            draw(self._console)

    def failed(self, cell: Cell, reason: Reason) -> None:
        """A cell has failed; the run goes on."""
        if not self._quiet:
            self._console.print(Text(f"{cell.key}: {reason.code}: {reason.message}", style="yellow"), soft_wrap=True)

    def note(self, text: str) -> None:
        """Something that a person should know, and that is no fault of a cell."""
        if not self._quiet:
            self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def _remaining_s(self) -> float | None:
        if not self._number:
            return None
        return (self._clock() - self._started) / self._number * (self._total - self._number)

    def _draw(self, *, force: bool) -> None:
        now = self._clock()
        if self._quiet or (not force and now - self._drawn < (_REFRESH_S if self._live else _LINE_S)):
            return
        self._drawn = now
        elapsed, remaining = now - self._started, self._remaining_s()
        width = "" if self._width is None else f"±{self._width:.1%}"
        left = "" if remaining is None else f", about {remaining:.0f} s left"
        clock = f"{elapsed:.0f} s{left}"
        if self._live is None:
            sampled = f", {self._count} samples {width}" if self._count else ""
            line = f"[{self._number + 1}/{self._total}] {self._pairing} process {self._process}: "
            what = f"{self._phase} {self._cell}".rstrip()
            self._console.print(Text(f"{line}{what}{sampled}; {clock}"), soft_wrap=True)
            return
        table = Table.grid(padding=(0, 1))
        done = f"{self._number + 1} of {self._total}, process {self._process}"
        bar = ProgressBar(total=self._total, completed=self._number, width=min(60, self._console.width - 12))
        table.add_row("", bar)
        table.add_row("pairing", Text(f"{self._pairing} ({done})"))
        table.add_row("cell", Text(self._cell or "-"))
        table.add_row("phase", Text(f"{self._phase}, {self._count} samples {width}" if self._count else self._phase))
        table.add_row("time", Text(clock))
        self._live.update(table, refresh=True)
