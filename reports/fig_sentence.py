"""The lesson's sentence as a picture: masked at rising noise, and one level written again with its candidates.

The first panel holds the levels and what was written from each; every further panel is a step. Its columns are the
positions that are masked when the level begins: the original word, and below it what could stand there now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from ..profiles.studies import Candidate, Regeneration, SentenceStudy
from .palette import LIGHT, side_colour
from .plain import plain
from .plotting import PANEL_WIDTH, Figure, Sheet
from .sentence import detailed, drawn, masked_at_first, percent, shown_token, verdict
from .study import Study, left_out, shorten, spread

NAME, TITLE = "sentence", "One sentence under noise, and what else could have stood there"
MAX_STEPS = 6
MAX_COLUMNS = 6
MAX_LEVELS = 5
MAX_CANDIDATES = 5
_HEIGHT = 212
_INSET = (8, 6, 8, 28)
_WIDTH, _DEPTH = PANEL_WIDTH - _INSET[0] - _INSET[2], _HEIGHT - _INSET[1] - _INSET[3]
_CELL = 24  # of a candidate: its word, and its bar with the probability
_LONGEST = 14  # letters of a word that a column has room for
_SPACE = 3.5  # points between two words


@dataclass(frozen=True, slots=True)
class _Page:
    """A panel to write on, in points from its upper left corner."""

    axes: Axes

    def text(self, x: float, y: float, text: str, size: float, colour: str = "ink", weight: str = "normal") -> None:
        """`text` with its base line at `y`."""
        self.axes.text(x, y, text, fontsize=size, color=LIGHT[colour], fontweight=weight, va="baseline")

    def fitted(self, x: float, y: float, token: str, room: float, colour: str, weight: str = "normal") -> None:
        """A token in at most `room` points: a little smaller where that is enough, else cut."""
        text, sizes = shorten(shown_token(token), _LONGEST), (8.5, 8.0, 7.5)
        size = next((size for size in sizes if _width(text, size, weight) <= room), sizes[-1])
        while len(text) > 1 and _width(text, size, weight) > room:
            text = shorten(text, len(text) - 1)
        self.text(x, y, text, size, colour, weight)

    def box(self, x: float, y: float, width: float, height: float, colour: str, outline: bool = False) -> None:
        """A filled or outlined rectangle whose upper left corner is at x, y."""
        fill, edge = ("none", colour) if outline else (colour, "none")
        box = Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=1.1, clip_on=False)
        self.axes.add_patch(box)


def sentence_figure(study: Study, folder: Path) -> Figure:
    """The levels, and the steps of the level that reads best, of the first pair that has the study."""
    found = {pair: s.sentence for pair, s in study.stored.studies.items() if s.sentence is not None}
    if not found:
        return Figure(NAME, TITLE, skipped=_absent(study))
    pair, sentence = next(iter(found.items()))
    again = detailed(sentence, MAX_COLUMNS)
    steps = [] if again is None else spread(range(len(again.steps)), MAX_STEPS)
    sheet = Sheet(1 + len(steps), 2, _HEIGHT)
    _levels(_page(sheet, 0, "masked with probability t, and written again"), sentence)
    if again is not None:
        for panel, step in enumerate(steps, start=1):
            title = f"t = {again.t:g}, step {step + 1} of {len(again.steps)}"
            _step(_page(sheet, panel, title), sentence, again, step)
    return Figure(
        NAME,
        TITLE,
        sentence=study.told(pair, _sentence(sentence, again)),
        caption=_caption(sentence, again, pair, len(found), len(steps)),
        svg=sheet.save(folder / f"{NAME}.png"),
        alt=_alt(sentence, again),
    )


def _page(sheet: Sheet, panel: int, title: str) -> _Page:
    axes = sheet.axes(panel, _INSET)
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(_DEPTH, 0)
    axes.set_axis_off()
    axes.set_title(title, color=LIGHT["ink"])
    return _Page(axes)


def _levels(page: _Page, study: SentenceStudy) -> None:
    """A level in two lines: the masked sentence, and what was written from it with the source's verdict."""
    again = {regeneration.t: regeneration for regeneration in study.regenerations}
    labels, size = 52.0, 8.5
    shown = study.levels[:MAX_LEVELS]
    y = 10.0
    for level in shown:
        page.text(0, y, f"t = {level.t:g}", size, weight="bold")
        _words(page, labels, y, size, study, level.tokens)
        regeneration = again.get(level.t)
        if regeneration is not None:
            y += 14
            page.text(0, y, _short_verdict(regeneration), 8, "muted")
            _words(page, labels, y, size, study, regeneration.tokens, written=True)
        y += 22


def _step(page: _Page, study: SentenceStudy, again: Regeneration, number: int) -> None:
    """The sentence before a step, and below it a column of candidates for each position that the level masks."""
    step, chosen = again.steps[number], drawn(again, number)
    _words(page, 0, 10, 8.5, study, step.tokens)
    columns = [i for i, token in enumerate(again.steps[0].tokens) if token is None][:MAX_COLUMNS]
    pitch = _WIDTH / len(columns)
    for column, position in enumerate(columns):
        x, width = column * pitch, pitch - 4
        page.fitted(x, 29, study.tokens[position], width, "muted")
        page.box(x, 33, width, 0.9, LIGHT["muted"])
        if step.tokens[position] is not None:
            page.fitted(x, 45, step.tokens[position] or "", width, "diffusion", "bold")
            continue
        own = step.candidates[position]
        likeliest = own[:MAX_CANDIDATES] + tuple(c for c in own[MAX_CANDIDATES:] if c.token == chosen.get(position))
        for row, candidate in enumerate(likeliest):
            _candidate(page, x, 35 + row * _CELL, width, candidate, candidate.token == chosen.get(position))


def _candidate(page: _Page, x: float, y: float, width: float, candidate: Candidate, chosen: bool) -> None:
    """A word with its probability as number and bar; outlined and bold if the step draws it."""
    colour, share = ("diffusion" if chosen else "ink"), 33
    page.fitted(x + 2, y + 10, candidate.token, width - 3, colour, "bold" if chosen else "normal")
    page.text(x + 2, y + 19.5, percent(candidate.probability), 8, "diffusion" if chosen else "muted")
    room = width - share - 2
    page.box(x + share, y + 13.5, room, 5.5, LIGHT["grid"])
    filled = side_colour("diffusion") if chosen else LIGHT["forward"]
    page.box(x + share, y + 13.5, room * candidate.probability, 5.5, filled)
    if chosen:
        page.box(x - 1, y + 0.5, width + 1, _CELL - 2.5, LIGHT["diffusion"], outline=True)


def _words(
    page: _Page,
    x: float,
    y: float,
    size: float,
    study: SentenceStudy,
    tokens: Sequence[str | None],
    written: bool = False,
) -> None:
    """A sentence; a mask is a box as wide as the word it hides. `written`: words that differ from it stand out."""
    pairs = list(zip(tokens, study.tokens, strict=True))
    names = [shorten(shown_token(original if token is None else token), _LONGEST) for token, original in pairs]
    room = _WIDTH - x
    whole = sum(_width(name, size) for name in names) + _SPACE * (len(names) - 1)
    size = max(6.0, size * min(1.0, room / whole))
    for name, (token, original) in zip(names, pairs, strict=True):
        width = _width(name, size)
        if x + width > _WIDTH + 1:
            page.text(min(x, _WIDTH - 6), y, "…", size, "muted")
            return
        weight = "bold" if written and token != original else "normal"
        if token is None:
            page.box(x, y - size + 1, width, size + 1, LIGHT["diffusion-2"])
        else:
            page.text(x, y, name, size, "diffusion" if weight == "bold" else "ink", weight)
            width = _width(name, size, weight)
        x += width + _SPACE


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Of `text`, in points."""
    font = FontProperties(size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def _short_verdict(regeneration: Regeneration) -> str:
    return "not valid" if regeneration.log_prob is None else f"{regeneration.log_prob:.1f} nats"


def _absent(study: Study) -> str:
    """Why there is no sentence: as the run says it, else what makes one."""
    why = [plain(s.why["sentence"]) for s in study.stored.studies.values() if "sentence" in s.why]
    if why:
        return f"No sentence was written again: {why[0]}."
    return (
        "No sentence was written again: that needs a masked diffusion network trained on the embedded source; "
        "`dlmbench run --weights trained` has one."
    )


def _sentence(study: SentenceStudy, again: Regeneration | None) -> str:
    if again is None:
        return "No level masks a position."
    count, steps = masked_at_first(again), len(again.steps)
    return (
        f"At t = {again.t:g}, {count} of {len(study.tokens)} tokens are masked; {steps} denoising "
        f"step{'' if steps == 1 else 's'} make{'s' if steps == 1 else ''} “{_quoted(study.text)}” into "
        f"“{_quoted(again.text)}” ({verdict(again)})."
    )


def _caption(study: SentenceStudy, again: Regeneration | None, pair: str, found: int, shown: int) -> str:
    steps = [] if again is None else again.steps
    columns = 0 if again is None else masked_at_first(again)
    seeds = sorted({regeneration.seed for regeneration in study.regenerations})
    return (
        "A token is masked where its own uniform number lies below t, so masks only grow. Under each masked sentence: "
        "what the network made of it, changed words bold, with the exact log-probability of the whole document under "
        "the source, or that the source cannot write it. A step draws from the network's probabilities, at temperature "
        "1 and at positions in random order. Below each original word: the likeliest tokens there before the step and "
        "their probabilities; outlined: what the step draws. Where a bold word stands alone, an earlier step drew it. "
        f"“{_quoted(study.context)}” before the sentence and an end of text behind it are given. Not timed; pair "
        f"{shorten(plain(pair), 40)}, seed {', '.join(map(str, seeds)) or 'none'}. "
        f"{left_out(MAX_LEVELS, len(study.levels), 'level')}{left_out(shown, len(steps), 'step')}"
        f"{left_out(MAX_COLUMNS, columns, 'position')}{left_out(1, found, 'pair')}"
    ).strip()


def _alt(study: SentenceStudy, again: Regeneration | None) -> str:
    """Every level, its result, and every step of the one shown in detail, in words."""
    results = {regeneration.t: regeneration for regeneration in study.regenerations}
    parts = []
    for level in study.levels:
        tokens = " ".join("[mask]" if token is None else shown_token(token) for token in level.tokens)
        result = results.get(level.t)
        written = "" if result is None else f", written again: {plain(result.text)} ({verdict(result)})"
        parts.append(f"t = {level.t:g}: {tokens}{written}")
    for number, step in enumerate(() if again is None else again.steps):
        for position, token in drawn(again, number).items() if again is not None else ():
            told = ", ".join(f"{shown_token(c.token)} {percent(c.probability)}" for c in step.candidates[position])
            parts.append(
                f"step {number + 1} draws {shown_token(token)} for {shown_token(study.tokens[position])} out of {told}"
            )
    return "; ".join(parts)


def _quoted(text: str) -> str:
    return shorten(plain(text), 120)
