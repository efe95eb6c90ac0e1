"""How the demo looks: the masked sentence, both canvases on one clock, and the same as plain lines for a pipe.

A cell of a canvas is one token. Its colour is the step that fixed it, from the side's ramp, always as dark ink on a
light ground, so that it reads on any terminal's background; the step is also written in the cell, since colour may be
off. Whatever is drawn here is made of `Text`, never of markup, and of token texts that were made inert.
"""

from __future__ import annotations

import shlex
from bisect import bisect_right
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..profiles.record import Commit, Side, Timeline
from ..profiles.studies import SentenceStudy
from ..reports.format import SIDES, format_number
from ..reports.grid import GridColumn, draw
from ..reports.palette import DARK, RAMP_LEVELS
from ..reports.sentence import sentence_lines

WIDE = 100  # columns from which the two sides stand beside each other

# Denser where the masks are the subject, lighter where they are what is still missing.
_MASKED, _SHADE, _UNWRITTEN = "▒", "░", "·"
_GAP = 2
_BESIDE = 24  # least width of a sentence that has its label beside it
_WIDEST_CELL, _NARROWEST_CELL = 12, 2
_BORDERS = 4  # columns of a panel that are not content
_CHROME = 5  # lines of a panel that are not canvas: borders, counters, clock, legend
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Piece:
    """A token as it is shown: its id, inert text of at least one column, and whether a space comes before it."""

    id: int
    text: str
    spaced: bool


@dataclass(frozen=True, slots=True)
class Masking:
    """A sentence, one uniform in [0, 1) a token, and for each noise level t which tokens it masks."""

    pieces: tuple[Piece, ...]
    uniforms: tuple[float, ...]
    levels: tuple[tuple[float, tuple[bool, ...]], ...]

    @property
    def tokens(self) -> list[tuple[Piece, float]]:
        return list(zip(self.pieces, self.uniforms, strict=True))


@dataclass(frozen=True, slots=True)
class Stage:
    """What both generations run on. `threads` is None where the CPU does not compute, `free_bytes` where unknown.

    `pair` is the pair's name and `reference` what the user called it.
    """

    pair: str
    reference: str
    random: bool
    weights: str
    parameters: int
    weight_bytes: int
    free_bytes: int | None
    dtype: str
    device: str
    threads: int | None
    length: int
    steps: int
    temperature: float
    seed: int
    prompt: tuple[Piece, ...]

    @property
    def note(self) -> str:
        """What the text is worth, to be read wherever text is shown."""
        return "random weights: gibberish text, real timing" if self.random else f"weights: {self.weights}"


@dataclass(frozen=True, slots=True)
class Track:
    """One side's recorded generation: its final tokens [L], its timeline, and the commits that fixed each of them."""

    side: Side
    generator: str
    pieces: tuple[Piece, ...]
    timeline: Timeline
    fixing: tuple[Commit, ...]
    prepare_s: float

    @property
    def latency_s(self) -> float:
        return self.timeline.latency_s

    @property
    def nfe(self) -> int:
        return self.forwards_by(self.latency_s)

    @property
    def throughput_tok_s(self) -> float:
        return len(self.pieces) / self.latency_s

    def forwards_by(self, at_s: float) -> int:
        """Forwards of the target network that had ended by `at_s`."""
        return sum(f.network == "target" and f.end_s <= at_s for f in self.timeline.forwards)

    def steps_by(self, at_s: float) -> int:
        """How many of the fixing commits had happened by `at_s`."""
        return bisect_right(self.fixing, at_s, key=lambda commit: commit.at_s)

    def colour(self, step: int) -> str:
        """The colour of fixing commit number `step`, counted from 0: the side's ramp from first to last."""
        return DARK[f"{self.side}-{round(step / max(len(self.fixing) - 1, 1) * (RAMP_LEVELS - 1))}"]


@dataclass(frozen=True, slots=True)
class Scene:
    """Both generations on one clock that starts at 0 for each of them and ends at `end_s`."""

    stage: Stage
    tracks: tuple[Track, ...]

    @property
    def end_s(self) -> float:
        return max(track.latency_s for track in self.tracks)


def show_masking(masking: Masking, console: Console) -> None:
    """The sentence at each noise level; a masked token is as wide as its text, so that nothing moves."""
    _say(console, Text("forward masking: each token is masked with probability t; masks only grow with t", "bold"))
    count = len(masking.pieces)
    # A token keeps the colour of the level that masked it: the blocks show how the masks nest.
    first = [next((n for n, (_, hidden) in enumerate(masking.levels) if hidden[i]), 0) for i in range(count)]
    for t, masked in masking.levels:
        sentence = Text()
        for i, (piece, hidden) in enumerate(zip(masking.pieces, masked, strict=True)):
            sentence.append(" " if piece.spaced and i else "")
            shade = round((first[i] - 1) / max(len(masking.levels) - 2, 1) * (RAMP_LEVELS - 1))
            style = Style(color=DARK[f"diffusion-{shade}"]) if hidden else Style.null()
            sentence.append(_MASKED * cell_len(piece.text) if hidden else piece.text, style)
        level = Text(f"t = {t:<4g}  expect {t:4.0%}".replace("%", " %"), "bold")
        outcome = Text(f"masked {sum(masked):>{len(str(count))}}/{count} {sum(masked) / count:7.1%}".replace("%", " %"))
        label, width = [level, outcome], max(level.cell_len, outcome.cell_len) + _GAP
        if console.width >= (whole := level.cell_len + outcome.cell_len + 2 * _GAP) + sentence.cell_len:
            label, width = [Text.assemble(level, " " * _GAP, outcome)], whole
        _beside(label, sentence, console, label_width=width)


def show_sentence(study: SentenceStudy | None, why: str | None, console: Console) -> None:
    """The sentence written again from every level that `show_masking` has shown; else why not, where there is more to
    say than that the weights are random."""
    if study is None and why is None:
        return
    console.print()
    for line in [Text(why or "")] if study is None else sentence_lines(study, console.width, masks=False):
        _say(console, line)


def show_stage(stage: Stage, console: Console) -> None:
    """What is about to run, and how big it is: printed before anything is loaded."""
    size = f"{stage.parameters / 1e9:.2f} billion" if stage.parameters >= 1e9 else f"{stage.parameters / 1e6:.2f} M"
    threads = "" if stage.threads is None else f" with {stage.threads} thread{'s' if stage.threads > 1 else ''}"
    free = "" if stage.free_bytes is None else f" of {format_number(stage.free_bytes, 'B')} free"
    large = stage.free_bytes is not None and stage.weight_bytes > stage.free_bytes
    console.print()
    _say(console, Text(f"denoising beside AR: pair {stage.pair}, {stage.note}", "bold"))
    _say(
        console,
        Text(
            f"{size} parameters, {format_number(stage.weight_bytes, 'B')} of weights in {stage.dtype}{free}"
            f"{' (more than is free: this may fail)' if large else ''}; {stage.device}{threads}, eager engine; "
            f"L = {stage.length}, T = {stage.steps}, temperature {stage.temperature:g}, seed {stage.seed}"
        ),
    )
    if stage.prompt:
        prompt = "".join(" " * (p.spaced and i > 0) + p.text for i, p in enumerate(stage.prompt))
        _say(console, Text(f"prompt ({len(stage.prompt)} tokens): {prompt}", "dim"))


def show_steps(scene: Scene, console: Console) -> None:
    """Both generations as plain lines: what a step fixed is in brackets, on one line only.

    Diffusion shows its whole canvas at each step. AR, which fixes one position a step, is summed up as a staircase: its
    prefix when it has 1, 2, 4, … tokens.
    """
    for track in scene.tracks:
        console.print()
        steps, whole = len(track.fixing), track.side == "diffusion"
        unit = "step" if whole else "token"
        _say(console, Text(f"{SIDES[track.side]}: {len(track.pieces)} tokens in {track.nfe} forwards"))
        shown = range(1, steps + 1) if whole else sorted({*(2**n for n in range(steps.bit_length())), steps} - {0})
        told = 0
        for count in shown:
            fixed = {p for commit in track.fixing[:count] for p in commit.positions}
            new = fixed - {p for commit in track.fixing[:told] for p in commit.positions}
            told = count
            words = [
                f"[{piece.text}]" if i in new else piece.text if i in fixed else _SHADE * 2
                for i, piece in enumerate(track.pieces)
                if whole or i in fixed
            ]
            label = f"{unit} {count:>{len(str(steps))}}/{steps}  {_time(track.fixing[count - 1].at_s, scene.end_s)}"
            _beside([Text(label)], Text(" ".join(words)), console, label_width=cell_len(label) + _GAP)


def show_summary(scene: Scene, console: Console) -> None:
    """Latencies with their units, and what they are worth."""
    console.print()
    columns = [GridColumn("", right=False), GridColumn("NFE"), GridColumn("latency"), GridColumn("throughput")]
    rows = [
        [
            Text(SIDES[track.side], Style(color=DARK[track.side], bold=True)),
            Text(str(track.nfe)),
            Text(format_number(track.latency_s, "s")),
            Text(format_number(track.throughput_tok_s, "tok/s")),
        ]
        for track in scene.tracks
    ]
    draw(console, columns, rows)
    if any(piece.text == f"#{piece.id}" for track in scene.tracks for piece in track.pieces):
        _say(console, Text("#n is token n, which has no text to show in this tokenizer.", "dim"))
    of = {track.side: track.latency_s for track in scene.tracks}
    stage = scene.stage
    ratio = f"diffusion's throughput is {of['ar'] / of['diffusion']:.3g}× AR's at T = {stage.steps}"
    quality = (
        "random weights say nothing of quality" if stage.random else "what that costs in quality is not shown here"
    )
    _say(console, Text(f"One generation a side after one warm-up: {ratio}; {quality}. To measure it:"))
    source = f"--pair {shlex.quote(stage.reference)}" if stage.random else f"--weights {shlex.quote(stage.weights)}"
    axes = f"--lengths {stage.length} --steps {stage.steps} --prompt-lengths {len(stage.prompt)}"
    _say(console, Text(f"dlmbench run {source} {axes}", "bold"))


def frame(scene: Scene, at_s: float, width: int, height: int | None = None, slowdown: float | None = None) -> Group:
    """Both sides as they stood at `at_s`, in `width` columns and, if it can be done, `height` lines (None: as many).

    `slowdown` is the replay's, in seconds shown a second of real time.
    """
    wide = width >= WIDE
    each = (width - _GAP) // 2 if wide else width
    rows = None
    if height is not None:
        rows = max(1, height - _CHROME - 3 if wide else (height - 3) // 2 - _CHROME)
    cells = _cells(scene, max(each - _BORDERS, 1), rows)
    panels = [_panel(track, scene, at_s, each, cells) for track in scene.tracks]
    parts: list[Panel | Table | Text] = [*panels]
    if wide:
        beside = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        beside.add_row(*panels)
        parts = [beside]
    if slowdown is not None:
        pace = f"{slowdown:.3g}× slower than it ran" if slowdown >= 1 else f"{1 / slowdown:.3g}× faster than it ran"
        parts.append(Text(f" shown {pace}", "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _panel(track: Track, scene: Scene, at_s: float, width: int, cells: tuple[int, int]) -> Panel:
    inner = max(width - _BORDERS, 1)
    done, steps = track.steps_by(at_s), len(track.fixing)
    unit = "step" if track.side == "diffusion" else "token"
    ended = at_s >= track.latency_s
    clock = _time(min(at_s, track.latency_s), scene.end_s)
    counter = Text(f"{unit} {done:>{len(str(steps))}}/{steps} · NFE {track.forwards_by(at_s)} · {clock}")
    counter.append(" ✓" if ended else "", Style(bold=True))
    lines = [_canvas(track, done, *cells), counter, _clock_bar(track, scene.end_s, at_s, inner), _legend(track)]
    for line in lines:
        line.no_wrap, line.overflow = True, "crop"
    stage = scene.stage
    title, subtitle = SIDES[track.side], stage.note
    if stage.random:
        # Two halves, so that a narrow panel cuts neither.
        first, _, subtitle = stage.note.partition(": ")
        title = f"{title} · {first}"
    return Panel(
        Group(*lines),
        title=Text(title, Style(bold=True)),
        subtitle=Text(subtitle),
        title_align="left",
        subtitle_align="right",
        border_style=Style(color=DARK[track.side]),
        box=box.ROUNDED,
        width=width,
        padding=(0, 1),
    )


def _canvas(track: Track, done: int, cell: int, per_row: int) -> Text:
    """The positions in reading order, a cell each; what the latest step fixed is bold."""
    steps, numbered = len(track.fixing), track.side == "diffusion"
    step_of = {p: step for step, commit in enumerate(track.fixing[:done]) for p in commit.positions}
    label = len(str(steps))
    empty = _SHADE * cell if numbered else _UNWRITTEN.ljust(cell)
    canvas = Text()
    for i, piece in enumerate(track.pieces):
        canvas.append("" if i == 0 else "\n" if i % per_row == 0 else " ")
        step = step_of.get(i)
        if step is None:
            canvas.append(empty, Style(dim=True))
            continue
        mark = str(step + 1).translate(_SUPERSCRIPT) if numbered and cell > label else ""
        text = set_cell_size(_clipped(piece.text, cell - len(mark)) + mark, cell)
        canvas.append(text, Style(color=DARK["paper"], bgcolor=track.colour(step), bold=step == done - 1))
    return canvas


def _cells(scene: Scene, inner: int, rows: int | None) -> tuple[int, int]:
    """(columns of a cell, cells in a row), the same on both sides, so that positions correspond.

    Room for the longest text within reason, less where lines are scarce.
    """
    count, label = scene.stage.length, len(str(scene.stage.steps))
    longest = max(cell_len(piece.text) for track in scene.tracks for piece in track.pieces) + label
    for wanted in range(min(max(longest, _NARROWEST_CELL), _WIDEST_CELL), _NARROWEST_CELL - 1, -1):
        per_row = max(1, (inner + 1) // (wanted + 1))
        if rows is None or -(-count // per_row) <= rows:
            break
    per_row = -(-count // -(-count // per_row))  # as many rows, all of them nearly full
    return max(1, min((inner + 1) // per_row - 1, _WIDEST_CELL)), per_row


def _clock_bar(track: Track, end_s: float, at_s: float, inner: int) -> Text:
    """The common clock from 0 to `end_s` across the panel: a tick where a step fixed something, blank after the end."""
    column_s = end_s / inner
    last = {min(int(commit.at_s / column_s), inner - 1): step for step, commit in enumerate(track.fixing)}
    bar = Text()
    for column in range(inner):
        passed = (column + 0.5) * column_s <= at_s or at_s >= end_s
        if column * column_s >= track.latency_s:
            bar.append(" ")
        elif column in last and track.fixing[last[column]].at_s <= at_s:
            bar.append("┃", Style(color=track.colour(last[column]), bold=True))
        else:
            bar.append("━" if passed else "─", Style(color=DARK[track.side]) if passed else Style(dim=True))
    return bar


def _legend(track: Track) -> Text:
    """Which colour is which step: each by its number, or the ramp's ends where steps share colours."""
    steps = len(track.fixing)
    legend = Text("step " if track.side == "diffusion" else "token ")
    if steps <= RAMP_LEVELS:
        for step in range(steps):
            legend.append(f" {step + 1} ", Style(color=DARK["paper"], bgcolor=track.colour(step)))
        return legend
    legend.append("1 ")
    for level in range(RAMP_LEVELS):
        legend.append("▆▆", Style(color=DARK[f"{track.side}-{level}"]))
    return legend.append(f" {steps}")


def _beside(label: list[Text], body: Text, console: Console, label_width: int) -> None:
    """`label` with `body` to its right, wrapped; above it where the console is too narrow."""
    narrow = console.width - label_width < _BESIDE
    if narrow:
        for line in label:
            _say(console, line)
        label, label_width = [], min(_GAP, console.width - 1)
    lines = body.wrap(console, max(console.width - label_width, 1), overflow="fold")
    for left, right in zip_longest(label, lines, fillvalue=Text()):
        pad = " " * (label_width - left.cell_len)
        _say(console, Text.assemble(left, pad, right))


def _say(console: Console, text: Text) -> None:
    for line in text.wrap(console, max(console.width, 1), overflow="fold"):
        line.rstrip()
        console.print(line)


def _clipped(text: str, width: int) -> str:
    """`text` in at most `width` columns; an ellipsis where something was cut, if that leaves enough to read."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width) if width < 4 else set_cell_size(text, width - 1).rstrip() + "…"


def _time(seconds: float, end_s: float) -> str:
    """`seconds` in the unit of the whole clock, padded to the width of its end, so that a running counter stands."""
    scale, unit = (1.0, "s") if end_s >= 1 else (1e3, "ms") if end_s >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:>{len(f'{end_s * scale:.2f}')}.2f} {unit}"
