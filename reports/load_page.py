"""A load as one self-contained HTML file, in the style of a run's report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from .. import __version__
from ..profiles.metrics import METRICS
from ..profiles.serving.record import LoadRun
from ..profiles.serving.store import StoredLoad
from ..profiles.store import replace_file
from .html import template_environment, theme
from .load_figures import write_load_figures
from .load_markdown import load_summary
from .load_rows import facts, headline, notes, tables
from .page import flat
from .plain import plain

if TYPE_CHECKING:
    from .plotting import Figure


def write_load_files(stored: StoredLoad) -> list[Path]:
    """Write figures, report.html and summary.md into the load's folder; returns their paths."""
    figures = write_load_figures(stored, stored.path / "figures")
    page, summary = stored.path / "report.html", stored.path / "summary.md"
    replace_file(page, render(stored.run, figures))
    replace_file(summary, load_summary(stored.run))
    drawn = [stored.path / "figures" / f"{figure.name}.png" for figure in figures if figure.skipped is None]
    return [*drawn, page, summary]


def render(run: LoadRun, figures: Sequence[Figure]) -> str:
    """The page as text."""
    used = {name.partition("[")[0] for level in run.levels for name in level.metrics}
    return (
        template_environment()
        .get_template("load.html.j2")
        .render(
            version=__version__,
            title=" and ".join(plain(endpoint.model) for endpoint in run.endpoints),
            created=run.created,
            headline=headline(run),
            tables=tables(run),
            figures=[(figure, Markup(figure.svg)) for figure in figures],  # built element by element: plotting.themed
            notes=notes(run),
            facts=facts(run),
            environment=flat(run.environment),
            definitions=[
                (metric.header, metric.unit, metric.formula, metric.note)
                for name, metric in METRICS.items()
                if name in used
            ],
            command=shlex.join(plain(argument) for argument in run.command),
            **theme(),
        )
    )
