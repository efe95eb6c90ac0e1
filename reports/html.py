"""report.html: one file that opens from disk, reads on a phone, follows the reader's light or dark, and prints.

Names, messages and tokens in a record come from anyone. Three layers keep them text: every string that the template
prints passes through `plain` (controls and direction marks go), Jinja escapes it, and the page's policy forbids any
script but its own, whose hash it names, and any network at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..profiles.record import CertificateRow
from ..profiles.serving.store import LOAD_FOLDER, StoredLoad
from ..profiles.store import StoredRun, replace_file
from .extrapolation import HEADERS as EXTRAPOLATION_HEADERS
from .extrapolation import NOTE as EXTRAPOLATION_NOTE
from .extrapolation import extrapolations
from .format import format_number, shown_unit
from .hardware_rows import PEAK_HEADERS, hardware_section
from .headline import headline
from .load_rows import facts as load_facts
from .load_rows import headline as load_headline
from .load_rows import notes as load_notes
from .load_rows import tables as load_tables
from .page import column_metrics, definitions, flat, missing_reasons, notes, result_rows
from .palette import DARK, LIGHT, palette_css
from .plain import plain
from .rows import pair_names, run_facts, unmeasured
from .study import Study
from .terminal import certificate_difference, certificate_value
from .tradeoffs import tradeoffs

if TYPE_CHECKING:
    from .plotting import Figure

TEMPLATES = Path(__file__).with_name("templates")


def write_html(stored: StoredRun, figures: Sequence[Figure], path: Path, loaded: StoredLoad | None = None) -> None:
    """Write the page to `path`, whole or not at all."""
    replace_file(path, render(stored, figures, loaded))


def render(stored: StoredRun, figures: Sequence[Figure], loaded: StoredLoad | None = None) -> str:
    """The page as text; `loaded` is the load of the run's suite, whose own page lies in its folder."""
    study = Study(stored)
    pairs = pair_names(stored)
    run = stored.run
    return (
        template_environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            facts=run_facts(stored),
            notes=notes(stored),
            headlines=[headline(study, pair) for pair in pairs],
            tradeoffs=[(pair, claims) for pair in pairs if (claims := tradeoffs(study, pair))],
            figures=[(figure, Markup(figure.svg)) for figure in figures],  # built element by element: plotting.themed
            hardware=hardware_section(stored),
            extrapolated=[one.row for one in extrapolations(stored)],
            extrapolation=(EXTRAPOLATION_HEADERS, EXTRAPOLATION_NOTE),
            peak_headers=PEAK_HEADERS,
            columns=[(metric, shown_unit(metric.name)) for metric in column_metrics()],
            results=[(pair, rows := result_rows(stored, pair), missing_reasons(rows)) for pair in pairs],
            unmeasured=unmeasured(stored),
            certificates=[(pair, [_certified(row) for row in pair.certificate]) for pair in run.pairs],
            environment=flat(run.environment),
            workers=_workers(stored),
            peaks=[
                (peak.dtype, format_number(peak.matmul_flop_s, "FLOP/s"), format_number(peak.read_b_s, "B/s"))
                for peak in run.peaks
            ],
            settings=[
                *flat({k: v for k, v in run.settings.items() if k not in ("cwd", "load")}),
                *flat(run.prompts, "prompts."),
                ("seed", str(run.seed)),
            ],
            command=shlex.join(plain(argument) for argument in run.command),
            definitions=definitions(stored),
            served=None if loaded is None else _served(loaded),
            load_folder=LOAD_FOLDER,
            **theme(),
        )
    )


def _served(loaded: StoredLoad) -> dict[str, Any]:
    """What the page says of servers under load."""
    run = loaded.run
    return {
        "headline": load_headline(run),
        "tables": load_tables(run),
        "notes": load_notes(run),
        "facts": load_facts(run),
    }


def theme() -> dict[str, str]:
    """What every page of this room needs besides its content: the two palettes, the script and its hash."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "palette_light": palette_css(LIGHT),
        "palette_dark": palette_css(DARK),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
    }


def _certified(row: CertificateRow) -> tuple[CertificateRow, str, str, str]:
    """A certificate's row with both sides and their difference as they are shown."""
    return (
        row,
        certificate_value(row.ar, row.unit),
        certificate_value(row.diffusion, row.unit),
        certificate_difference(row),
    )


def template_environment() -> Environment:
    """Templates of this room: autoescaped, every string cleaned first."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment


def _unbroken(text: str) -> Markup:
    """A sentence, escaped, in which `T = 8` and `12.3 ms` stay on one line."""
    words = re.sub(r"\b([A-Za-z]\*?) = (?=\S)", "\\1\u00a0=\u00a0", plain(text))
    return Markup.escape(re.sub(r"(\d) (?=[nµm]?s\b|%|[kMG]? ?tok/s)", "\\1\u00a0", words))


def _clean(value: object) -> object:
    """Every expression of the template passes here before it is escaped; markup is only what this room made."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _workers(stored: StoredRun) -> list[tuple[tuple[str, str], ...]]:
    """The distinct workers: what versions, commit and threads measured. A page is shared, so no folder of the machine
    is on it; the record of trials has them.
    """
    private = {"pid", "package_path", "origins"}
    distinct = {flat(trial.worker.model_dump(exclude=private)): None for trial in stored.trials if trial.worker}
    return list(distinct)
