"""summary.md as GitHub reads it: parsed with a Markdown parser, so that what is asserted is what is shown."""

from __future__ import annotations

import html as entities
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from dlmbench.profiles.store import StoredRun
from dlmbench.reports.markdown import write_summary
from dlmbench.reports.markdown_text import escape

Synthetic = Callable[..., StoredRun]
HOSTILE = "a|b `c` <img src=x onerror=alert(1)> [l](http://evil.example) ~~s~~ **b** &lt; $x$\x1b[31m\nnext"
VISIBLE = "a|b `c` <img src=x onerror=alert(1)> [l](http://evil.example) ~~s~~ **b** &lt; $x$ next"


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def summary(stored: StoredRun, path: Path) -> str:
    write_summary(stored, path)
    return path.read_text(encoding="utf-8")


def test_every_table_row_has_as_many_cells_as_its_header(tmp_path: Path, synthetic_run: Synthetic) -> None:
    text = summary(synthetic_run(tmp_path, pair=HOSTILE, message=HOSTILE), tmp_path / "summary.md")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 4  # results, cells without a result, certificate, how it was measured
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, synthetic_run: Synthetic) -> None:
    text = summary(synthetic_run(tmp_path, pair=HOSTILE, message=HOSTILE), tmp_path / "summary.md")
    html = rendered(text)
    assert "<img" not in html
    assert "evil.example" in html
    assert not re.search(r'href="[^"]*evil', html)
    assert "<s>" not in html
    assert "\x1b" not in text
    # the only raw HTML is our own
    assert set(re.findall(r"^<[^>]+>", text, flags=re.MULTILINE)) == {"<details>", "<summary>", "</details>"}


@pytest.mark.parametrize(
    "text", [VISIBLE, "[1, 2](http://x.y)", "- x", "[a]: http://x.y", "&amp; &#60;", "\\", "*", "_a_"]
)
def test_escape_shows_exactly_the_text(text: str) -> None:
    html = rendered(f"x {escape(text)}")
    shown = re.fullmatch(r"<p>x (.*)</p>\n", html)
    assert shown is not None
    assert entities.unescape(shown[1]) == text
    assert "<" not in shown[1]


def test_an_interval_stays_readable_in_the_source() -> None:
    assert escape("12.3 ms [12.1, 12.6]") == "12.3 ms [12.1, 12.6]"


def test_the_summary_holds_headline_results_warnings_certificate_command_and_device(
    study: StoredRun, tmp_path: Path
) -> None:
    text = summary(study, tmp_path / "summary.md")
    # AR at L = 16, batch 1, one row of the results table: latency, then throughput, with units and intervals
    assert re.search(r"^\| AR † \| [\d.]+ ms \[[\d.]+, [\d.]+\] \| [\d.]+ k tok/s \[", text, flags=re.MULTILINE)
    assert re.search(r"^- prompt 32, L 16, batch 1: T=4 [\d.]+× \[", text, flags=re.MULTILINE)
    assert "- Processor frequency changed by 6 % during the run." in text
    assert "| device | Example CPU, 4 cores (cpu) |" in text
    assert "| total parameters | 11,000,000 | 11,000,128 | +0.001 % | equal within 0.01 % |" in text
    assert "dlmbench run quick --pair small --seed 17 --note 'it'\"'\"'s two words'" in text
    details = text[text.index("<details>") : text.index("</details>")]
    assert "total parameters" in details


def test_the_command_cannot_close_its_own_fence(study: StoredRun, tmp_path: Path) -> None:
    run = study.run.model_copy(update={"command": ("dlmbench", "````", "<b>")})
    html = rendered(summary(replace(study, run=run), tmp_path / "summary.md"))
    assert "dlmbench '````' '&lt;b&gt;'\n</code>" in html


def test_links_are_the_files_that_exist_and_lead_to_them(tmp_path: Path, synthetic_run: Synthetic) -> None:
    folder = tmp_path / "run"
    stored = synthetic_run(folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "wall clock.png").write_bytes(b"x")
    (folder / ".hidden").write_bytes(b"x")
    text = summary(stored, folder / "summary.md")
    links = re.findall(r"^- \[(.*)\]\((.*)\)$", text, flags=re.MULTILINE)
    assert links == [
        ("measurements.jsonl", "measurements.jsonl"),
        ("run.json", "run.json"),
        ("trials.jsonl", "trials.jsonl"),
        ("figures/wall clock.png", "figures/wall%20clock.png"),
    ]
    assert text.rstrip().endswith("(figures/wall%20clock.png)")
    elsewhere = summary(stored, tmp_path / "elsewhere.md")
    assert "(run/run.json)" in elsewhere
