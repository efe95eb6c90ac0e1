"""report.html: self-contained, complete, and deaf to whatever a record says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dlmbench.profiles.metrics import METRICS
from dlmbench.profiles.record import Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.format import format_interval, format_point
from dlmbench.reports.headline import Track, faster_side, headline
from dlmbench.reports.html import render, write_html
from dlmbench.reports.page import COLUMNS, definitions, flat, notes, result_rows
from dlmbench.reports.plotting import Figure
from dlmbench.reports.study import Study

Synthetic = Callable[..., StoredRun]
FIGURES = [
    Figure("one", "One", "A sentence.", "A caption.", '<svg viewBox="0 0 1 1"><text>drawn</text></svg>', "alt words"),
    Figure("two", "Two", skipped="No trial recorded <it>."),
]
HOSTILE = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(2)></svg>\"'{{7*7}} $x$ \x1b[31mred\u202e&amp;"
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A page's elements and text, and whether every element is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.words.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def html(study: StoredRun) -> str:
    return render(study, FIGURES)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_needs_no_network(html: str, page: Page) -> None:
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]|@import|url\(", html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_the_policy_allows_this_script_and_no_other(html: str, page: Page) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] or "" for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_every_measured_number_stands_on_the_page_with_unit_and_interval(study: StoredRun, page: Page) -> None:
    for m in study.measurements:
        for name, value in m.metrics.items():
            if value.value is None:
                assert value.why
                assert value.why in page.text
            else:
                shown = f"{format_point(name, value)} {format_interval(name, value)}".rstrip()
                assert shown in page.text, (m.key, name)


def test_units_are_written_out(page: Page) -> None:
    # AR at L = 16, batch 1 takes 14.9 ms for 16 tokens.
    for shown in ("14.9 ms [14.8, 15.0]", "k tok/s", "16 forwards", "GB", " %", "GFLOP", "×"):
        assert shown in page.text


def test_cells_without_a_result_are_listed_with_code_and_message(study: StoredRun, page: Page) -> None:
    for status, code in (("failed", "out_of_memory"), ("invalid", "thermal"), ("skipped", "budget")):
        m = next(m for m in study.measurements if m.status == status)
        assert m.reason is not None
        assert f"{status} {code} {m.reason.message}" in page.text


def test_overhead_bound_cells_are_labelled(study: StoredRun, html: str) -> None:
    rows = result_rows(study, "small")
    below = {
        m.key for m in study.measurements if m.status == "ok" and (m.metrics["roofline_fraction"].value or 0) < 0.5
    }
    assert {row.key for row in rows if row.overhead_bound} == below
    assert 0 < len(below) < len(rows), "the synthetic study should have both kinds"
    assert html.count('<span class="tag">overhead-bound</span>') == len(below) + 1  # and the sentence that explains it


def test_an_interval_without_a_level_claims_no_confidence(study: StoredRun) -> None:
    cards = {card.title: card for card in headline(Study(study), "small").cards}
    assert cards["L = 16 · batch 8"].meaning == "Brackets: within one process."
    assert cards["L = 16 · batch 1"].meaning == "Brackets: 95 % confidence, n = 5."


def test_the_headline_names_the_fastest_side_at_each_shape(study: StoredRun) -> None:
    # From the cost model of synthetic.py: at batch 1 few steps beat AR, at batch 8 none do, and at L = 256, batch 8
    # every diffusion cell failed.
    cards = {card.title: card for card in headline(Study(study), "small").cards}
    assert {title: card.fastest for title, card in cards.items()} == {
        "L = 16 · batch 1": "diffusion",
        "L = 16 · batch 8": "ar",
        "L = 64 · batch 1": "diffusion",
        "L = 64 · batch 8": "ar",
        "L = 256 · batch 1": "diffusion",
        "L = 256 · batch 8": "",
    }
    assert cards["L = 64 · batch 1"].verdict.startswith("Diffusion with T = 8 is 2.")
    assert cards["L = 64 · batch 8"].verdict.startswith("AR is 2.")
    assert "L/8" in cards["L = 64 · batch 1"].bars[-1].label
    assert headline(Study(study), "small").sentence == (
        "Of 6 shapes (prompt, length, batch): diffusion is fastest in 3; AR is fastest in 2; nothing to compare in 1."
    )


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(1.1, 1.3, "diffusion"), (0.5, 0.9, "ar"), (0.9, 1.1, "unclear"), (None, None, "unclear")],
)
def test_a_side_is_faster_only_where_the_whole_interval_is(low: float | None, high: float | None, side: str) -> None:
    assert faster_side(Value(value=1.2, low=low, high=high)) == side


def test_a_track_is_logarithmic() -> None:
    track = Track(0.25, 4.0)
    assert (track.zero, track.at(0.5), track.at(2.0), track.at(100.0)) == (50.0, 25.0, 75.0, 100.0)


def test_a_figure_is_shown_or_its_absence_explained(html: str, page: Page) -> None:
    assert FIGURES[0].svg in html
    assert 'aria-label="alt words"' in html
    assert "One A sentence. drawn A caption." in page.text
    assert "Two Not drawn. No trial recorded <it>." in page.text


def test_certificate_environment_settings_command_and_peaks_are_there(study: StoredRun, page: Page) -> None:
    for row in study.run.pairs[0].certificate:
        assert row.quantity in page.text
        assert row.verdict in page.text
    for shown in (
        "KV bytes per token 12.3 kB 0 B -100 %",
        "tied embeddings yes yes",
        "cpu.governor performance",
        "warmup.window 4",
        "prompts.count 64",
        "seed 17",
        "float32 1.60 TFLOP/s 120 GB/s",
        "commit 0123456789abcdef",
        "dlmbench run quick --pair small --seed 17 --note 'it'\"'\"'s two words'",
    ):
        assert shown in page.text, shown


def test_no_folder_of_the_machine_is_on_a_page_that_is_shared(study: StoredRun, html: str) -> None:
    worker = study.trials[0].worker
    assert worker is not None
    assert worker.origins is not None
    assert worker.python in html
    for path in (worker.package_path, worker.origins["dlmbench"].path):
        assert path not in html


def test_every_metric_used_is_defined_with_its_formula(study: StoredRun, page: Page) -> None:
    shown = definitions(study)
    used = {name.partition("[")[0] for m in study.measurements for name in m.metrics} | set(COLUMNS)
    assert {d.name for d in shown} == used
    for name in used:
        assert METRICS[name].formula in page.text
        assert METRICS[name].header in page.text


def test_warnings_come_from_the_run_and_from_its_cells(study: StoredRun, page: Page) -> None:
    found = notes(study)
    assert found[:2] == study.run.warnings
    assert "3 of 24 cells have no valid result; they are listed with their reasons." in found
    assert any(note.startswith("No quality was measured") for note in found)
    for note in found:
        assert note in page.text


@pytest.mark.parametrize("figures", [[], FIGURES])
def test_hostile_names_and_messages_stay_text(
    synthetic_run: Synthetic, tmp_path: Path, figures: list[Figure], study: StoredRun
) -> None:
    stored = synthetic_run(tmp_path, pair=HOSTILE, message=HOSTILE)
    hostile_run = stored.run.model_copy(
        update={
            "suite": HOSTILE, "suite_description": HOSTILE, "device_name": HOSTILE, "id": HOSTILE, "created": HOSTILE,
            "environment": {HOSTILE: {HOSTILE: HOSTILE}}, "settings": {HOSTILE: [HOSTILE]}, "dlmbench_version": HOSTILE,
        }
    )  # fmt: skip
    stored = replace(stored, run=hostile_run)
    html = render(stored, figures)
    hostile, benign = Page(html), Page(render(study, figures))
    assert [t for t, _ in hostile.tags].count("script") == 1
    assert {t for t, _ in hostile.tags} == {t for t, _ in benign.tags}, "no element that a benign run does not have"
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    assert "\x1b" not in html
    assert "\u202e" not in html
    cleaned = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)></svg>\"'{{7*7}} $x$ red&amp;"
    assert cleaned in hostile.text, "shown as it is, not run, and not evaluated"


def test_an_unfinished_run_has_a_page(study: StoredRun) -> None:
    unfinished = replace(
        study, run=study.run.model_copy(update={"finished": None, "duration_s": None}), trials=(), measurements=()
    )
    text = Page(render(unfinished, [])).text
    assert "This run has not finished" in text
    assert "No cell of this pair has a valid result." in text


def test_the_file_is_written_whole(study: StoredRun, tmp_path: Path, html: str) -> None:
    path = tmp_path / "report.html"
    write_html(study, FIGURES, path)
    assert path.read_text(encoding="utf-8") == html
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_flat_names_nested_values() -> None:
    assert flat({"a": {"b": 1, "c": [2, 3]}, "d": None, "e": {}, "f": []}) == (
        ("a.b", "1"), ("a.c", "2, 3"), ("d", "—"), ("e", "{}"), ("f", "none"),
    )  # fmt: skip
