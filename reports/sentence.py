"""The lesson's sentence in a terminal: masked at rising noise, written again, and what else could have stood there.

    t = 0.5   large language ▒▒▒▒▒▒ process vast amounts ▒▒ ▒▒▒▒ .
           →  large language systems process vast amounts of text .   valid, log p = -15.2 nats

Lines are `Text` made of inert tokens, never markup, each no wider than asked where a token allows it. What a step draws
is in brackets and what a level changed is bold, since colour may be off.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from ..profiles.studies import Candidate, Regeneration, SentenceStudy
from .palette import DARK
from .plain import plain

_MASK = "▒"
_MASKED = Style(color=DARK["diffusion"])
_DRAWN = Style(color=DARK["diffusion"], bold=True)
_GAP = 2
_NAME = 14  # columns for an original word beside its candidates
_LEAST = 24  # columns beside a label below which the label stands above


def sentence_lines(study: SentenceStudy, width: int, *, masks: bool = True) -> list[Text]:
    """What was written from each level, then one level step by step, for a console of `width` columns.

    `masks`: with the masked sentence at each level, for where it is not on the screen already.
    """
    seeds = sorted({regeneration.seed for regeneration in study.regenerations})
    told = f" (seed {', '.join(map(str, seeds))})" if seeds else ""
    what = "masked with probability t and written again" if masks else "written again from each level"
    title = f"{what}, at temperature 1{told}; before it, given: {plain(study.context)}"
    lines = _flow(Text(), _spoken(title, "bold"), width, 1)
    again = {regeneration.t: regeneration for regeneration in study.regenerations}
    column = max((cell_len(f"t = {level.t:g}") for level in study.levels), default=0) + _GAP
    for level in study.levels:
        label = Text(f"t = {level.t:g}".ljust(column), "bold")
        if masks:
            lines += _flow(label, _state(study, level.tokens), width, 1)
            label = _arrow(column)
        if level.t in again:
            lines += _flow(label, _result(study, again[level.t]), width, 1)
    chosen = detailed(study)
    if chosen is not None:
        lines += [Text(), *_steps(study, chosen, width)]
    return lines


def detailed(study: SentenceStudy, most: int = 6) -> Regeneration | None:
    """The regeneration to show step by step: the one that fills most positions, up to `most`; else the shortest."""
    some = [regeneration for regeneration in study.regenerations if regeneration.steps]
    fitting = [regeneration for regeneration in some if masked_at_first(regeneration) <= most]
    if fitting:
        return max(fitting, key=masked_at_first)
    return min(some, key=masked_at_first, default=None)


def masked_at_first(regeneration: Regeneration) -> int:
    """How many positions a regeneration fills."""
    return regeneration.steps[0].tokens.count(None) if regeneration.steps else 0


def drawn(regeneration: Regeneration, step: int) -> dict[int, str]:
    """Position -> token of what step number `step`, counted from 0, commits."""
    later = regeneration.steps[step + 1].tokens if step + 1 < len(regeneration.steps) else regeneration.tokens
    return {position: later[position] or "" for position in regeneration.steps[step].committed}


def verdict(regeneration: Regeneration) -> str:
    """What the source says of the document that came out."""
    if regeneration.log_prob is None:
        return "not valid: the source cannot write it"
    return f"valid, log p = {regeneration.log_prob:.1f} nats"


def percent(probability: float) -> str:
    """A probability in a few columns, with 0 and 100 % for exactly these only."""
    if 0 < probability < 0.001:
        return "<0.1 %"
    if 0.995 <= probability < 1:
        return ">99 %"
    return f"{100 * probability:.0f} %" if probability >= 0.01 or not probability else f"{100 * probability:.1f} %"


def shown_token(token: str) -> str:
    """A token as at least one visible column."""
    return plain(token) or "·"


def _steps(study: SentenceStudy, regeneration: Regeneration, width: int) -> list[Text]:
    """Every step: the sentence before it, and the candidates at each position that is still masked."""
    count = len(regeneration.steps)
    title = (
        f"from t = {regeneration.t:g} in {count} step{'' if count == 1 else 's'}: at each masked position the "
        "likeliest tokens with their probabilities, [what the step draws] in brackets"
    )
    lines = _flow(Text(), _spoken(title, "bold"), width, 1)
    names = [set_cell_size(name, min(cell_len(name), _NAME)) for name in map(shown_token, study.tokens)]
    column = max(len(f"step {count}/{count}"), _GAP + max(map(cell_len, names), default=0)) + _GAP
    cells = [
        [_cells(own, drawn(regeneration, number).get(position)) for position, own in enumerate(step.candidates)]
        for number, step in enumerate(regeneration.steps)
    ]
    every = [row for step in cells for row in step]
    widest = max((cell.cell_len for row in every for cell in row), default=0) + _GAP
    aligned = column + widest * max(map(len, every), default=0) <= width
    for number, step in enumerate(regeneration.steps):
        label = Text(f"step {number + 1}/{count}".ljust(column), "bold")
        lines += _flow(label, _state(study, step.tokens), width, 1)
        for position, row in enumerate(cells[number]):
            if row:
                name = Text(" " * _GAP + names[position], "dim")
                name.pad_right(column - name.cell_len)
                if aligned:
                    for cell in row[:-1]:
                        cell.pad_right(widest - _GAP - cell.cell_len)
                lines += _flow(name, row, width, _GAP)
    return lines + _flow(_arrow(column), _result(study, regeneration), width, 1)


def _arrow(column: int) -> Text:
    return Text("→".rjust(column - _GAP).ljust(column))


def _cells(candidates: Sequence[Candidate], chosen: str | None) -> list[Text]:
    """`token p` for each candidate, the chosen one in brackets."""
    cells = []
    for candidate in candidates:
        text = f"{shown_token(candidate.token)} {percent(candidate.probability)}"
        cells.append(Text(f"[{text}]", _DRAWN) if candidate.token == chosen else Text(text))
    return cells


def _state(study: SentenceStudy, tokens: Sequence[str | None]) -> list[Text]:
    """The sentence at a level or a step; a mask is as wide as the word that stood there, so that nothing moves."""
    words = []
    for token, original in zip(tokens, study.tokens, strict=True):
        masked = Text(_MASK * cell_len(shown_token(original)), _MASKED)
        words.append(masked if token is None else Text(shown_token(token)))
    return words


def _result(study: SentenceStudy, regeneration: Regeneration) -> list[Text]:
    """What came out, changed words bold, and the source's verdict."""
    words = [
        Text(shown_token(token), Style.null() if token == original else _DRAWN)
        for token, original in zip(regeneration.tokens, study.tokens, strict=True)
    ]
    told = f"({verdict(regeneration)})"
    return [*words, *_spoken(told, "dim")]


def _spoken(text: str, style: str) -> list[Text]:
    return [Text(word, style) for word in text.split()]


def _flow(label: Text, words: Sequence[Text], width: int, gap: int) -> list[Text]:
    """`words`, `gap` columns apart, beside `label` and wrapped below themselves; under it where that leaves little."""
    if not words:
        return [label]
    indent = label.cell_len
    lines = []
    if indent and width - indent < min(_LEAST, width):
        label.rstrip()
        label.truncate(width)
        lines, indent, label = [label], min(_GAP, width - 1), Text(" " * min(_GAP, width - 1))
    line = label.copy()
    used = indent
    for word in words:
        for part in _folded(word, max(width - indent, 1)):
            if used > indent and used + gap + part.cell_len > width:
                lines.append(line)
                line, used = Text(" " * indent), indent
            if used > indent:
                line.append(" " * gap)
                used += gap
            line.append_text(part)
            used += part.cell_len
    return [*lines, line]


def _folded(word: Text, width: int) -> list[Text]:
    """`word`, in pieces of `width` columns where it is wider."""
    if word.cell_len <= width:
        return [word]
    pieces = [Text("", word.style)]
    for character in word.plain:
        if pieces[-1].cell_len + cell_len(character) > width and pieces[-1].plain:
            pieces.append(Text("", word.style))
        pieces[-1].append(character)
    return pieces
