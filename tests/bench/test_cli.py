"""The command line: what it imports, its exit codes, and one line for whatever a user may type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dlmbench
from dlmbench.profiles.store import StoredRun

HEAVY = ("torch", "pandas", "matplotlib", "transformers", "scipy", "numpy", "tokenizers")


def program(*arguments: object, **fields: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlmbench.bench.cli", *map(str, arguments)],
        text=True,
        check=False,
        **({"capture_output": True} | fields),
    )


@pytest.fixture
def stored(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> Path:
    """The folder of a run."""
    return measure(tmp_path / "stored").path


# Start-up


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["gate", "--help"], ["--version"]])
def test_starting_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom dlmbench.bench import cli\n"
        f"sys.argv = ['dlmbench', *{arguments!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_reading_a_run_imports_no_torch() -> None:
    """`dlmbench show` must not wait seconds for a library that it does not use."""
    code = "import sys, dlmbench.bench.run_command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_version(command: Callable[..., Any]) -> None:
    assert command("--version").out == f"dlmbench {dlmbench.__version__}\n"


def test_help_names_every_command(command: Callable[..., Any]) -> None:
    text = command("--help").out
    for name in ("run", "gate", "show", "report", "compare", "trend", "list", "doctor", "calibrate", "demo"):
        assert f"\n  {name} " in text


# Bad input: exit code 2, one line, nothing on standard output, nothing written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "suite 'nosuch' is unknown; choose from"),
        (["nosuch.toml"], "suite file nosuch.toml: cannot be read"),
        (["--pair", "nosuch"], "pair 'nosuch' is unknown; choose from"),
        (["--pair", "nosuch.toml"], "pair file nosuch.toml"),
        (["--dtype", "int9"], "found 'int9'"),
        (["--engine", "warp"], "found 'warp'"),
        (["--device", "tpu"], "choose cpu, cuda, cuda:N or auto"),
        (["--length-policy", "short"], "found 'short'"),
        (["--remasking", "none"], "found 'none'"),
        (["--lengths", "0"], "--lengths '0': expected integers from 1"),
        (["--lengths", "abc"], "--lengths 'abc'"),
        (["--lengths", "8,,x"], "--lengths 'x'"),
        (["--lengths", "-8"], "--lengths '-8'"),
        (["--lengths", "1e3"], "--lengths '1e3'"),
        (["--lengths", "99999999999999999999"], "expected integers from 1"),
        pytest.param(["--lengths", "9" * 5000], "--lengths"),
        pytest.param(["--lengths", "٣"], "--lengths '٣'"),
        (["--lengths", "²"], "--lengths '²'"),
        pytest.param(["--batches", "1" + "0" * 400, "--dry-run"], "batch"),
        (["--prompt-lengths", "-1"], "--prompt-lengths '-1': expected integers from 0"),
        (["--steps", "99", "--lengths", "8"], "T=99 exceeds length L=8"),
        (["--steps", "L/3", "--lengths", "8"], "'L/3' is not a whole number at L=8"),
        pytest.param(["--steps", "9" * 5000], "steps"),
        (["--block-lengths", "3", "--lengths", "8", "--steps", "8"], "not divisible by 3"),
        (["--budget", "-1"], "--budget -1: expected a positive number"),
        (["--budget", "0"], "--budget 0"),
        pytest.param(["--budget", "nan", "--dry-run"], "--budget"),
        pytest.param(["--budget", "inf", "--dry-run"], "--budget"),
        (["--target-ci", "0"], "target_ci"),
        (["--target-ci", "nan"], "target_ci"),
        (["--temperature", "nan"], "temperature"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["--top-k", "-1"], "top_k"),
        (["--seed", "-1"], "seed"),
        (["--seed", "9" * 30], "seed"),
        (["--processes", "0"], "processes"),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "--threads 100000"),
        (["--generator", "nosuch"], "generator 'nosuch' is unknown"),
        (["--generator", "nosuch.py:f"], "nosuch.py: no such file"),
        (["--generator", ".x:f"], "generator"),
        (["--weights", "./nosuch/folder"], "no such folder"),
        (["--prompts", "nosuch.txt"], "nosuch.txt: no such file"),
        (["--tokenizer", "nosuch.json"], "nosuch.json: no such file"),
        (["--resume", "nosuch"], "no such run folder"),
        (["a" * 5000], "unknown"),
        (["--pair", "a" * 5000], "unknown"),
        (["--out", "/proc/no/such"], "cannot be written"),
        pytest.param(["--out", "a" * 5000], "cannot be written"),
    ],
    ids=lambda value: (
        " ".join(value)[:40].encode("ascii", "backslashreplace").decode() if isinstance(value, list) else ""
    ),
)
def test_run_refuses_bad_input_in_one_line(
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    handles: Any,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in command("run", "--device", "cpu", "--threads", "1", *arguments).complaint
    assert handles.started == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["", "--pair", "--dtype", "--engine", "--device", "--lengths", "--steps",
                                  "--block-lengths", "--length-policy", "--remasking", "--generator", "--weights",
                                  "--prompts", "--tokenizer", "--resume"])  # fmt: skip
def test_control_characters_come_out_inert(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = "x/\x1b[31m\x1b]0;title\x07\r\nnew\u202eline\x00".rstrip("\x00")
    assert command("run", *([flag] if flag else []), hostile).complaint


@pytest.mark.parametrize("command_name", ["show", "report"])
def test_a_hostile_folder_name_comes_out_inert(command: Callable[..., Any], command_name: str) -> None:
    assert "no such run folder" in command(command_name, "\x1b[31m\nevil").complaint


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "empty file"),
        ("blank.txt", b" \n\t\n", "empty file"),
        ("binary.txt", bytes(range(256)), "NUL byte"),
        ("latin.txt", "é".encode("latin-1") * 50, "not UTF-8"),
        ("bad.jsonl", b'{"prompt": 3}\n', "line 1"),
        ("bad.jsonl", b"{\n", "line 1"),
    ],
)
def test_bad_prompt_files_are_refused(
    command: Callable[..., Any], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    complaint = command("run", "lesson", "--prompts", path, "--threads", "1").complaint
    assert name in complaint
    assert words in complaint


@pytest.mark.parametrize("arguments", [["show"], ["report"], ["compare"], ["compare", "--json"], ["show", "--json"]])
def test_what_is_no_run_is_refused(command: Callable[..., Any], tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("[1, 2]")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "run.json").write_text('{"schema_version": 999}')
    (tmp_path / "file").write_text("")
    for name in ("nosuch", "folder", "broken", "other", "newer", "file"):
        place = tmp_path / name
        targets = [place, place] if arguments[0] == "compare" else [place]
        assert str(place) in command(*arguments, *targets).complaint


def test_a_deeply_nested_record_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert command("show", tmp_path).complaint


def test_comparing_one_run_is_refused(command: Callable[..., Any], stored: Path) -> None:
    assert "two or more" in command("compare", stored).complaint


@pytest.mark.parametrize(
    "arguments",
    [["nosuch"], ["run", "--nosuch"], ["run", "--budget", "abc"], ["run", "--lengths"], ["run", "a", "b"], ["compare"]],
    ids=" ".join,
)
def test_wrong_usage_has_exit_code_2_and_no_traceback(command: Callable[..., Any], arguments: list[str]) -> None:
    outcome = command(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert any(word in outcome.err for word in (*arguments, "argument"))


def test_a_hostile_command_name_comes_out_inert(command: Callable[..., Any]) -> None:
    outcome = command("\x1b[31mevil")
    assert outcome.code == 2
    assert "\x1b" not in outcome.err


# What goes right


def test_show(command: Callable[..., Any], stored: Path) -> None:
    outcome = command("show", stored, "--certificate")
    assert (outcome.code, outcome.err) == (0, "")
    assert "crossover" in outcome.out


def test_show_as_json(command: Callable[..., Any], stored: Path) -> None:
    outcome = command("show", stored, "--json")
    document = json.loads(outcome.out)
    assert outcome.err == ""
    assert document["ok_cells"] == len(document["measurements"]) == 6


def test_compare_as_json(command: Callable[..., Any], stored: Path) -> None:
    outcome = command("compare", stored, stored, "--json")
    assert outcome.code == 0
    assert isinstance(json.loads(outcome.out), dict)


@pytest.mark.slow
def test_report_as_json(command: Callable[..., Any], stored: Path, tmp_path: Path) -> None:
    outcome = command("report", stored, "--json", "--archive", tmp_path / "run.zip")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    for name in document["files"]:
        assert Path(name).stat().st_size
    assert Path(document["archive"]).stat().st_size
    endings = {Path(name).suffix for name in document["files"]}
    assert {".html", ".md", ".png", ".csv", ".parquet", ".json"} <= endings


@pytest.mark.parametrize("kind", ["suites", "pairs", "generators", "endpoints", "devices", "metrics"])
def test_list(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # names fold in a narrow terminal
    table, document = command("list", kind), json.loads(command("list", kind, "--json").out)
    assert table.code == 0
    assert list(document) == [kind]
    words = " ".join(table.out.split())
    for row in document[kind]:
        assert row["name"] in words


def test_list_everything(command: Callable[..., Any]) -> None:
    assert set(json.loads(command("list", "--json").out)) == {"suites", "pairs", "generators", "endpoints", "devices"}


def test_list_of_something_else_is_refused(command: Callable[..., Any]) -> None:
    assert "choose from suites, pairs, generators, endpoints, devices, metrics" in command("list", "colours").complaint


def test_doctor_as_json(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("doctor", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    assert document["threads"] >= 1
    assert {finding["severity"] for finding in document["findings"]} <= {"ok", "info", "warning"}
    assert "warnings; a run here would use" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", ["0", "-3", "100000"])
def test_doctor_refuses_threads_that_run_refuses(command: Callable[..., Any], threads: str) -> None:
    assert "--threads" in command("doctor", "--threads", threads).complaint


@pytest.mark.slow
def test_a_dry_run_measures_and_writes_nothing(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("run", "lesson", "--device", "cpu", "--threads", "1", "--dry-run", "--json")
    document = json.loads(outcome.out)
    assert [cell["processes"] for cell in document["cells"]] == [5] * 26
    at_16 = [16, 16, *(16, 8, 4, 2, 1), *(16, 8, 4, 2, 1), *(16, 8, 4), *(16, 8, 4)]
    at_96 = [96, 96, *(96, 24, 8), *(96, 24, 8)]
    assert [cell["nfe"] for cell in document["cells"]] == at_16 + at_96
    assert document["duration_estimate_s"] > 0
    assert handles.started == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        # Three blocks for LLaDA's loop; SDAR counts them from position 0, where the prompt ends inside a block.
        (
            "--generator sdar --sampler sequential --prompt-lengths 30 --lengths 12 --steps 6 --block-lengths 4",
            "divisible by the 4 blocks",
        ),
        ("--generator dream --lengths 16 --steps 4 --block-lengths 4", "Dream has blocks only with cache"),
        ("--generator fast-dllm --threshold 0.9 --factor 1.0 --lengths 16", "give one of them"),
    ],
)
def test_a_dry_run_asks_the_generators(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("run", "lesson", "--device", "cpu", "--threads", "1", "--dry-run", *options.split())
    assert outcome.code == 2
    assert complaint in outcome.complaint
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_which_nothing_worked_has_exit_code_4(
    command: Callable[..., Any], tmp_path: Path, handles: Any, suite_file: Path, monkeypatch: pytest.MonkeyPatch,
    fakes: Any,
) -> None:  # fmt: skip
    from dlmbench.bench import run_command

    def plan(handle: Any) -> None:
        handle.load_error = fakes.died()

    handles.plan = staticmethod(plan)
    monkeypatch.setattr(run_command, "write_report", lambda stored: [])
    outcome = command("run", suite_file, "--device", "cpu", "--threads", "1", "--json", "--out", tmp_path / "run")
    assert outcome.code == 4
    assert json.loads(outcome.out)["ok_cells"] == 0


# Broken outputs


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show"], ["show", "--json"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(stored: Path, arguments: list[str]) -> None:
    """`dlmbench … | head -0`: the pipe is closed before anything is read."""
    read, write = os.pipe()
    os.close(read)
    full = [*arguments, stored] if arguments[0] == "show" else arguments
    try:
        done = program(*full, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode in (0, 1, 141)


def test_a_reader_that_goes_away_is_no_failed_check() -> None:
    """1 is the exit code of a regression."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = program("list", "--json", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode in (0, 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_output_is_said_in_one_line(stored: Path) -> None:
    with open("/dev/full", "w") as full:
        done = program("show", stored, "--json", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
