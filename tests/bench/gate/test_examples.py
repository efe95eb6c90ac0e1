"""The CI examples: they parse, keep their evidence before they judge, and their own commands run as written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import dlmbench
from dlmbench.profiles.gate_record import read_gate

EXAMPLES = Path(dlmbench.__file__).parent / "bench" / "examples"
MINE = """
class Mine:
    side = "ar"
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        import torch
        ids = torch.zeros((1, request.length), dtype=torch.int64)
        with observer.forward("target", "decode", 1, 1, 7, 1, "causal"):
            observer.write(None, ids, 0)
        return ids
"""


def example(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return document


def step(job: str, name: str) -> dict[str, Any]:
    (found,) = [step for step in example("github.yml")["jobs"][job]["steps"] if step.get("name") == name]
    return dict(found)


@pytest.fixture
def branch(scratch: Callable[..., Any], tmp_path: Path, command: Callable[..., Any]) -> Callable[..., Any]:
    """`branch("commands", SLOWER="0.1")` runs them as a CI job does, in a clone whose branch has left origin/main.
    `dlmbench` is this one, with workers that answer at once."""
    origin = scratch("origin")
    origin.commit({"mine.py": MINE}, "the base")
    clone = tmp_path / "clone"
    origin.git("clone", "--quiet", str(origin.root), str(clone))
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "CI"))}
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (("checkout", "-q", "-b", "topic"), (*who, "commit", "-q", "--allow-empty", "-m", "a change")):
        subprocess.run(["git", "-C", clone, *arguments], check=True, env=variables)
    # main goes on: what is measured against is where the branch left it.
    origin.commit({"later.py": ""}, "later")
    programs = tmp_path / "bin"
    programs.mkdir()
    faked = Path(__file__).with_name("faked_dlmbench.py")
    (programs / "dlmbench").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{faked}" "$@"\n')
    (programs / "dlmbench").chmod(0o755)

    def call(script: str, **extra: str) -> subprocess.CompletedProcess[str]:
        environment = variables | {"PATH": f"{programs}:{os.environ['PATH']}"} | extra
        # The shell of both services stops at the first command that fails.
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )

    call.folder = clone  # type: ignore[attr-defined]
    call.base = origin.git("rev-parse", "main~1")  # type: ignore[attr-defined]
    return call


# GitHub


@pytest.mark.parametrize(("slower", "code", "verdict"), [("0", 0, "PASS"), ("0.2", 1, "FAIL")])
def test_github_measures_keeps_and_then_judges(
    branch: Any, tmp_path: Path, slower: str, code: int, verdict: str
) -> None:
    output, summary = tmp_path / "output", tmp_path / "summary.md"
    given = example("github.yml")["env"] | {"BASE": "origin/main", "SLOWER": slower, "GITHUB_ACTIONS": "true"}
    measure = step("time", "Measure")
    assert measure["env"] == {"BASE": "origin/${{ github.base_ref }}"}
    done = branch(measure["run"], GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary), **given)
    assert done.returncode == 0, done.stdout + done.stderr  # the next step must be reached
    assert output.read_text() == f"code={code}\n", done.stdout + done.stderr
    document = read_gate(branch.folder / "gate" / "gate.json")
    assert document.result.verdict == verdict
    assert f"gate: {verdict}" in summary.read_text()
    assert (branch.folder / step("time", "Keep the evidence")["with"]["path"] / "junit.xml").exists()
    assert f"installing merge base of origin/main ({branch.base[:12]})" in done.stdout


@pytest.mark.parametrize(
    ("code", "left", "said"),
    [("0", 0, "No cell"), ("1", 1, ""), ("2", 2, ""), ("3", 0, "::warning"), ("4", 4, "::error"), ("", 70, "")],
)
def test_github_treats_every_exit_code(branch: Any, code: str, left: int, said: str) -> None:
    verdict = step("time", "Verdict")
    assert verdict["env"] == {"CODE": "${{ steps.gate.outputs.code }}"}
    assert step("time", "Measure")["id"] == "gate"
    done = branch(verdict["run"], CODE=code)
    assert done.returncode == left
    assert said in done.stdout


def test_github_has_the_history_and_uploads_whatever_happened() -> None:
    jobs = example("github.yml")["jobs"]
    assert set(jobs) == {"work", "time"}
    checkout = jobs["time"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["fetch-depth"] == 0
    for job in jobs.values():
        names = [step.get("name") for step in job["steps"]]
        kept = job["steps"][names.index("Keep the evidence")]
        assert kept["if"] == "always()"
        assert kept["uses"].startswith("actions/upload-artifact@")
    assert jobs["time"]["steps"][-1]["name"] == "Verdict"
    assert jobs["time"]["steps"][-1]["if"] == "always()"


# GitLab


def script(job: str) -> str:
    """What the job runs after its installation."""
    install, *commands = example("gitlab.yml")[job]["script"]
    assert install.startswith("python -m pip install")
    return "\n".join(commands)


def test_gitlab_fails_where_the_head_is_slower(branch: Any) -> None:
    given = {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", "GENERATOR": "mine.py:Mine", "SLOWER": "0.2"}
    done = branch(script("time"), **given)
    assert done.returncode == 1, done.stdout + done.stderr
    (kept,) = example("gitlab.yml")["time"]["artifacts"]["paths"]
    assert read_gate(branch.folder / kept / "gate.json").result.verdict == "FAIL"
    assert f"installing merge base of origin/main ({branch.base[:12]})" in done.stdout


def test_gitlab_keeps_everything_and_lets_the_undecided_pass() -> None:
    document = example("gitlab.yml")
    assert document["time"]["variables"]["GIT_DEPTH"] == "0"
    assert document["time"]["allow_failure"] == {"exit_codes": [3]}
    for name, folder in (("work", "gate-work"), ("time", "gate")):
        artifacts = document[name]["artifacts"]
        assert artifacts["when"] == "always"
        assert artifacts["paths"] == [folder]
        assert artifacts["reports"] == {"junit": f"{folder}/junit.xml"}


# Both


def test_counting_is_one_command_on_both_and_passes_on_a_file_just_renewed(
    branch: Any, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = step("work", "Count")["run"]
    assert script("work") == count
    given = {name: str(value) for name, value in example("github.yml")["env"].items()}
    monkeypatch.chdir(branch.folder)
    flags = ("--counters", given["COUNTERS"], "--generator", given["GENERATOR"], "--only")
    assert command("gate", *flags, "--renew").code == 0
    done = branch(count, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_gate(branch.folder / "gate-work" / "gate.json").context.counted


def test_both_say_how_dlmbench_is_installed_and_gate_the_same() -> None:
    variables = example("github.yml")["env"]
    theirs = example("gitlab.yml")["variables"]
    assert {name: theirs[name] for name in variables} == variables
    assert step("work", "Install")["run"].startswith('python -m pip install "$DLMBENCH"')
