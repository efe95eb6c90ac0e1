"""The job summary as GitHub reads it, parsed with a Markdown parser; and the annotations as its runner reads them."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

from dlmbench.reports.gate_annotations import MOST, annotation_lines, print_annotations
from dlmbench.reports.gate_markdown import SUMMARY_LIMIT, append_job_summary, gate_markdown


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def test_the_summary_says_verdict_cells_work_conditions_and_command(gates: ModuleType) -> None:
    text = gate_markdown(gates.document())
    lines = text.split("\n")
    assert lines[0] == "## dlmbench gate: FAIL"
    assert lines[2].startswith("small/mdlm/L=16,T=4 is slower than its margin allows. 3 cells: 1 FAIL, 1 CHANGED")
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[2].startswith("| **FAIL** | small/mdlm/L=16,T=4 | latency | 4.56 ms | +5.1 % [+4.0, +6.2] | 3 %, 50.0")
    assert rows[4].startswith("| PASS | small/ar/L=16 |")
    assert "| NFE | 16 forwards | 12 forwards | -25.0 % | CHANGED | nfe fell from 16 to 12 |" in text
    assert "| threads | base 1, head 2 |" in text
    assert "dlmbench gate --against main\n```" in text
    assert "<details>" not in text  # three cells need no folding


def test_tables_have_as_many_cells_as_their_headers(gates: ModuleType) -> None:
    for document in (gates.document(), gates.hostile()):
        for table in re.findall(r"(?:^\|.*\n)+", gate_markdown(document), flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_more_than_twenty_cells_are_folded(gates: ModuleType) -> None:
    cells = [gates.cell(f"small/ar/L={i}", "PASS") for i in range(30)] + [gates.cell("small/bad/L=1", "FAIL")]
    text = gate_markdown(gates.document(cells))
    seen, folded = text.split("<details>")
    assert seen.count("| PASS | small/ar") == 19
    assert "small/bad" in seen
    assert "<summary>more cells: 11 cells: 11 PASS</summary>\n\n| verdict" in folded
    assert rendered(text).count("<table>") == 3


def test_hostile_text_is_shown_and_does_nothing(gates: ModuleType) -> None:
    text = gate_markdown(gates.hostile())
    html = rendered(text)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert not set(text) & set("\x00\x1b\udc80\u202e\r")
    assert not any(line.startswith("::") for line in text.splitlines())


def test_a_summary_never_exceeds_what_github_takes(gates: ModuleType, tmp_path: Path) -> None:
    key = "small/ar/" + "x" * 10_000
    cells = [gates.cell(f"{key}{i}", "FAIL", message="y" * 100_000) for i in range(1500)]
    document = gates.document(cells)
    text = gate_markdown(document)
    assert 10_000 < len(text.encode()) <= SUMMARY_LIMIT
    assert re.search(r"\d+ more cells are in the JSON document only\.", text)
    for limit in (10_000, 1000, 10):
        assert len(gate_markdown(document, limit).encode()) <= limit
    path = tmp_path / "summary.md"
    path.write_text("z" * (SUMMARY_LIMIT - 5000))
    append_job_summary(document, path)
    assert SUMMARY_LIMIT - 5000 < path.stat().st_size <= SUMMARY_LIMIT
    assert "\n## dlmbench gate: FAIL" in path.read_text()


def test_annotations_name_cell_and_reason(gates: ModuleType) -> None:
    first, second = annotation_lines(gates.document())
    assert first == "::error title=FAIL small/mdlm/L=16%2CT=4::latency is 5.1 %25 worse, more than the margin of 3 %25"
    assert second.startswith("::error title=CHANGED small/block-diffusion/")
    (only,) = annotation_lines(gates.document(accept_changed=True))
    assert "FAIL small/mdlm" in only


def test_a_hostile_name_cannot_leave_its_annotation(gates: ModuleType) -> None:
    (line,) = annotation_lines(gates.hostile())
    # What GitHub's runner does: the command up to the second "::", properties split at commas, then unescaped.
    command, _, data = line.removeprefix("::").partition("::")
    name, _, properties = command.partition(" ")
    assert name == "error"
    assert [part.partition("=")[0] for part in properties.split(",")] == ["title"]
    title = properties.removeprefix("title=")
    assert "::" not in title
    assert "%3A%3Aerror" in title
    assert not set(line) & set("\r\n\x1b")
    assert "x%250A" in data  # a literal %0A stays what it was


def test_many_cells_give_no_more_annotations_than_github_shows(gates: ModuleType) -> None:
    found = annotation_lines(gates.document([gates.cell(f"c{i}", "FAIL") for i in range(25)]))
    assert len(found) == MOST == 10
    assert "16 more cells are not green" in found[-1]


def test_a_green_gate_says_nothing_and_an_unexplained_verdict_one_thing(gates: ModuleType) -> None:
    assert annotation_lines(gates.document([gates.cell("a", "PASS")], verdict="PASS")) == []
    (line,) = annotation_lines(gates.document([gates.cell("a", "PASS")], verdict="INVALID"))
    assert line.startswith("::error title=INVALID gate::")


@pytest.mark.parametrize(
    ("environ", "asked", "printed"),
    [
        ({}, None, False),
        ({"GITHUB_ACTIONS": "true"}, None, True),
        ({"GITHUB_ACTIONS": "true"}, False, False),
        ({"GITHUB_ACTIONS": "false"}, None, False),
        ({}, True, True),
    ],
)
def test_they_are_printed_only_where_github_reads(
    gates: ModuleType, environ: dict[str, str], asked: bool | None, printed: bool
) -> None:
    lines: list[str] = []
    print_annotations(gates.document(), lines.append, environ, asked)
    assert bool(lines) is printed
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
