"""`dlmbench gate`, whole, on workers that answer at once: verdicts, exit codes, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dlmbench.profiles.gate_record import read_gate
from dlmbench.profiles.store import read_run

COMMANDS = ("--base-cmd", "true", "--head-cmd", "true")


def test_equal_sides_pass(gate: Callable[..., Any], tmp_path: Path) -> None:
    outcome = gate()
    assert outcome.code == 0, outcome.out + outcome.err
    lines = [line for line in outcome.out.splitlines() if line.strip()]
    assert lines[-1].startswith(("PASS", "whole gate", "gate")) or "PASS" in outcome.out.rsplit("\n\n", 1)[-1]
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} >= {"base", "head", "gate.json", "junit.xml", "summary.md"}
    document = read_gate(folder / "gate.json")
    assert (document.result.verdict, document.result.pairs) == ("PASS", 6)
    assert len(document.result.cells) == 6
    assert document.context.paired
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "0", "0")
    # Each side is a run like any other, which says what both sides were.
    for side in ("base", "head"):
        stored = read_run(folder / side)
        assert [each["name"] for each in stored.run.settings["sides"]] == ["base", "head"]
        assert stored.run.settings["sides"][1]["command"][-1] == "--head"
        assert len(stored.trials) == 6 * 6
        assert {m.status for m in stored.measurements} == {"ok"}
    assert read_run(folder / "base").run.id != read_run(folder / "head").run.id


def test_a_slower_head_fails_and_names_its_cell(gate: Callable[..., Any], tmp_path: Path) -> None:
    outcome = gate("--json", slower=0.1, key="L=16,T=4")
    assert outcome.code == 1
    document = json.loads(outcome.out)
    verdicts = {cell["key"]: cell["outcome"]["verdict"] for cell in document["result"]["cells"]}
    slow = [key for key, verdict in verdicts.items() if verdict == "FAIL"]
    assert slow == ["small/masked-diffusion/L=16,T=4"]
    failures = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot().findall(".//testcase[failure]")
    assert [case.get("name") for case in failures] == slow
    assert slow[0] in (tmp_path / "out" / "summary.md").read_text()


def test_a_faster_head_passes(gate: Callable[..., Any]) -> None:
    assert gate(slower=-0.3).code == 0


def test_a_noisy_machine_is_undecided(gate: Callable[..., Any]) -> None:
    outcome = gate("--looks", "6,7", noise=0.2)
    assert outcome.code == 3
    assert "INCONCLUSIVE" in outcome.out


def test_a_short_budget_is_undecided(gate: Callable[..., Any], tmp_path: Path) -> None:
    outcome = gate("--budget", "0.001")
    assert outcome.code == 3
    assert read_gate(tmp_path / "out" / "gate.json").result.outcome.code == "budget"


@pytest.mark.parametrize(("forwards", "code"), [(-1, 1), (1, 1)])
def test_a_change_of_work_is_said(gate: Callable[..., Any], tmp_path: Path, forwards: int, code: int) -> None:
    assert gate(forwards=forwards).code == code
    verdict = read_gate(tmp_path / "out" / "gate.json").result.verdict
    assert verdict == ("CHANGED" if forwards < 0 else "FAIL")


def test_less_work_can_be_accepted(gate: Callable[..., Any]) -> None:
    assert gate("--accept-changed", forwards=-1).code == 0


def test_a_cell_that_breaks_at_head_is_invalid_and_ends_the_gate(gate: Callable[..., Any], tmp_path: Path) -> None:
    outcome = gate(broken="small/ar/L=16")
    assert outcome.code == 4
    result = read_gate(tmp_path / "out" / "gate.json").result
    (broken,) = [cell for cell in result.cells if cell.outcome.verdict == "INVALID"]
    assert broken.key == "small/ar/L=16"
    assert "RuntimeError: broken" in broken.outcome.message
    assert len(read_run(tmp_path / "out" / "head").trials) == 6  # one pair, and no more


def test_two_stored_runs_are_compared_process_by_process(
    gate: Callable[..., Any], command: Callable[..., Any], tmp_path: Path, suite_file: Path
) -> None:
    assert gate().code == 0
    base, head = tmp_path / "out" / "base", tmp_path / "out" / "head"
    outcome = command("gate", "--baseline", base, "--current", head, "--json", "--margin", "10%")
    document = json.loads(outcome.out)
    assert outcome.code == 0, document["result"]["outcome"]
    assert not document["context"]["paired"]
    assert document["context"]["base"]["name"] == str(base)


def test_learning_margins_writes_a_policy_that_can_be_used(
    gate: Callable[..., Any], command: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = gate("--learn-margins", "--looks", "6,10")
    assert outcome.code in (0, 3)
    policy = tmp_path / "out" / "policy.toml"
    assert "[gate.margins]" in policy.read_text()
    assert "latency_s: margin" in outcome.out
    assert read_gate(tmp_path / "out" / "gate.json").result.pairs == 10


def test_ci_gets_its_summary_and_annotations(
    gate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    outcome = gate("--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md", slower=0.2)
    assert outcome.code == 1
    assert "::error" in outcome.out
    assert "FAIL" in (tmp_path / "step.md").read_text()
    assert (tmp_path / "j.xml").read_text() == (tmp_path / "out" / "junit.xml").read_text()
    assert (tmp_path / "m.md").read_text() == (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "expected one of --baseline RUN --current RUN, --against GIT_REF, --base-cmd"),
        (("--baseline", "x"), "go together"),
        (("--base-cmd", "true"), "go together"),
        (("--base-cmd", "true", "--head-cmd", "true", "--against", "x"), "several were given"),
        (("--baseline", "nowhere", "--current", "nowhere"), "no such run folder"),
        (("--base-cmd", "no-such-program-here", "--head-cmd", "true"), "there is no program"),
        ((*COMMANDS, "--looks", "2"), "looks"),
        ((*COMMANDS, "--margin", "latency=5%"), "did you mean latency_s"),
        ((*COMMANDS, "--policy", "nothing.toml"), "policy nothing.toml"),
        (("--baseline", "x", "--current", "y", "--learn-margins"), "--learn-margins measures"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: Callable[..., Any],
    handles: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint in command("gate", *flags).complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--junit", "--markdown"])
@pytest.mark.parametrize("name", ["", "..", "no/such/folder/a.xml", "a" * 1000])
def test_an_output_that_cannot_be_is_refused_before_anything_is_measured(
    gate: Callable[..., Any], tmp_path: Path, flag: str, name: str
) -> None:
    assert gate(flag, name).complaint.startswith(f"dlmbench: {flag} ")
    assert not (tmp_path / "out").exists()
