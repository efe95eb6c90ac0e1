"""The trend as one self-contained HTML file and a PNG for each suite and device, in the style of a run's report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .. import __version__
from ..profiles.metrics import METRICS
from ..profiles.record import Value
from ..profiles.store import replace_file
from .fig_trend import trend_figure
from .format import MISSING, cell_label, format_point, metric_header
from .history import PastRun
from .html import template_environment, theme
from .plain import plain
from .trend import Group, Series, Trend
from .trend_rows import (
    NORMALISED_NOTE,
    SEEN_NOTE,
    date_words,
    differences_words,
    group_title,
    search_words,
    series_lines,
    step_lines,
    value_words,
)

if TYPE_CHECKING:
    from .plotting import Figure

_DIRECTIONS = {"lower": "Lower is better", "higher": "Higher is better", "neutral": "There is no better or worse"}


def write_trend(trend: Trend, folder: Path, command: Sequence[str]) -> list[Path]:
    """Write `folder`/trend.html and its PNGs; returns their paths, the page last."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"trend-{number}" for number in range(1, len(trend.groups) + 1)]
    figures = [trend_figure(trend, group, folder, name) for group, name in zip(trend.groups, names, strict=True)]
    page = folder / "trend.html"
    replace_file(page, render(trend, figures, command))
    drawn = [folder / f"{figure.name}.png" for figure in figures if figure.skipped is None]
    return [*drawn, page]


def render(trend: Trend, figures: Sequence[Figure], command: Sequence[str]) -> str:
    """The page as text."""
    metric = METRICS[trend.metric.partition("[")[0]]
    return (
        template_environment()
        .get_template("trend.html.j2")
        .render(
            version=__version__,
            header=metric_header(trend.metric),
            formula=metric.formula,
            direction=_DIRECTIONS[metric.direction],
            count=sum(len(group.runs) for group in trend.groups),
            groups=[_group(trend, group, figure) for group, figure in zip(trend.groups, figures, strict=True)],
            notes=[(str(note.path), note.text) for note in trend.notes],
            alpha=f"{trend.alpha:g}",
            normalised_note=NORMALISED_NOTE,
            seen_note=SEEN_NOTE,
            command=shlex.join(plain(argument) for argument in command),
            **theme(),
        )
    )


def _group(trend: Trend, group: Group, figure: Figure) -> dict[str, Any]:
    measured = [series for series in group.series if series.points]
    return {
        "suite": group.suite,
        "title": group_title(group),
        "search": search_words(trend, group),
        "steps": [(s.when, s.cell, s.change, s.verdict, s.seen, s.commit, s.also) for s in step_lines(group)],
        "cells": [
            (line.pair, line.cell, line.latest, line.interval, line.change, line.normalised, line.note)
            for line in series_lines(trend, group)
        ],
        "unnormalised": list(dict.fromkeys(s.not_normalised for s in measured if s.not_normalised is not None)),
        "moved": [(date_words(group.runs[m.run]), differences_words(m.differences)) for m in group.moved],
        "runs": [(date_words(run), run.id, run.commit, run.dlmbench) for run in group.runs],
        "tables": [(f"{s.cell.pair}: {cell_label(s.cell)}", _values(trend.metric, group.runs, s)) for s in measured],
        "figure": figure,
        "svg": Markup(figure.svg),  # built element by element: plotting.themed
    }


def _values(metric: str, runs: Sequence[PastRun], series: Series) -> list[tuple[str, str, str, str]]:
    """Every run of a cell in order: when, commit, value or the reason for none, and the normalised value."""
    points = {point.run: point for point in series.points}
    why = {gap.run: gap.why for gap in series.gaps}
    rows = []
    for index, run in enumerate(runs):
        point = points.get(index)
        value = value_words(metric, point.value) if point else f"{MISSING} ({why[index]})"
        normalised = format_point(metric, Value(value=point.normalised if point else None))
        rows.append((date_words(run), run.commit[:12], value, normalised))
    return rows
