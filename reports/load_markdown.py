"""A load as `summary.md`, in GitHub-flavoured Markdown."""

from __future__ import annotations

import shlex

from ..profiles.serving.record import LoadRun
from .load_rows import LoadTable, facts, headline, notes, tables
from .markdown_text import code_block, escape, table_lines


def load_summary(run: LoadRun) -> str:
    """The whole text."""
    models = " and ".join(escape(endpoint.model) for endpoint in run.endpoints)
    lines = [f"# {models} under load", "", *load_sections(run, "##")]
    lines += [*code_block(shlex.join(run.command)), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def load_sections(run: LoadRun, mark: str) -> list[str]:
    """Sentences, tables, notes and conditions; `mark` begins their headings."""
    lines = [*(f"- {escape(sentence)}" for sentence in headline(run)), ""]
    if not run.levels:
        lines += ["No window has ended yet.", ""]
    for table in tables(run):
        lines += _table(table, mark)
    if found := notes(run):
        lines += [f"{mark} Notes", "", *(f"- {escape(note)}" for note in found), ""]
    rows = [[escape(name), escape(value)] for name, value in facts(run)]
    return [*lines, f"{mark} How it was measured", "", *table_lines(("what", "value"), rows), ""]


def _table(table: LoadTable, mark: str) -> list[str]:
    rows = [[escape(entry) for entry in row] for row in table.rows]
    headers = [escape(header) for header in table.headers]
    note = [escape(table.note), ""] if table.note else []
    return [f"{mark} {escape(table.title)}", "", *table_lines(headers, rows, numbers=table.numbers), "", *note]
