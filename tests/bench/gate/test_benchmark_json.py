"""pytest-benchmark's JSON as a side of the gate: its own files, ours, and everything that is neither."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.gate.benchmark_json import benchmark_evidence, benchmarks_of, read_benchmarks
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.exports import write_pytest_benchmark_json

TEST = """
import pytest

@pytest.mark.parametrize("n", [10, 20])
def test_sum(benchmark, n):
    benchmark.pedantic(sum, args=(range(n),), rounds=5, iterations=3)
"""


def entry(name: str, data: list[Any] | None, **extra: Any) -> dict[str, Any]:
    return {"name": name, "fullname": name, "stats": {} if data is None else {"data": data}, "extra_info": extra}


def write(path: Path, *entries: dict[str, Any], cpu: str = "Example CPU", **fields: Any) -> Path:
    machine = {"node": path.stem, "system": "Linux", "python_version": "3.12.3", "cpu": {"brand_raw": cpu}}
    document = {
        "machine_info": machine,
        "commit_info": {"id": "abc"},
        "benchmarks": list(entries),
        "datetime": path.stem,
    }
    path.write_text(json.dumps(document | fields))
    return path


def test_a_file_of_pytest_benchmark_is_one_process(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    arguments = ["-p", "no:cacheprovider", "--benchmark-disable-gc", "-q", "--benchmark-json=out.json", "test_it.py"]
    # A worker of pytest-xdist measures nothing; where one runs this test, its child is none.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env=variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = read_benchmarks([tmp_path / "out.json"])
    document = json.loads((tmp_path / "out.json").read_text())
    assert list(found.medians) == ["test_it.py::test_sum[10]", "test_it.py::test_sum[20]"]
    for medians, benchmark in zip(found.medians.values(), document["benchmarks"], strict=True):
        assert len(benchmark["stats"]["data"]) == 5
        # its own median of seconds a call: the data are already divided by the iterations
        assert medians == (pytest.approx(benchmark["stats"]["median"]),)
    assert found.python == document["machine_info"]["python_version"]


def test_several_files_are_as_many_processes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.json", entry("a", [1.0 + i, 2.0 + i, 9.0]), entry("b", [1.0])) for i in range(6)]
    found = read_benchmarks(paths)
    assert found.medians == {"a": (2.0, 3.0, 4.0, 5.0, 6.0, 7.0), "b": (1.0,) * 6}
    assert (found.commit, found.machine) == ("abc", {"processor": "Example CPU", "system": "Linux"})


def test_a_run_that_was_exported_comes_back_with_its_processes(
    measure: Callable[[Path], StoredRun], tmp_path: Path
) -> None:
    stored = measure(tmp_path / "run")
    write_pytest_benchmark_json(stored, tmp_path / "export.json")
    read, direct = read_benchmarks([tmp_path / "export.json"]), benchmarks_of(stored)
    assert read == direct
    for key, medians in read.medians.items():
        trials = [trial for trial in stored.trials if trial.key == key]
        assert len(trials) == 2
        assert medians == tuple(median(s.latency_s for s in trial.counted()) for trial in trials)
    (first, *_) = benchmark_evidence(read, direct)
    assert first.spoiled is None
    (timed,) = first.timed
    assert timed.base_logs == timed.head_logs == tuple(math.log(x) for x in read.medians[first.key])
    assert math.isclose(timed.base, median(read.medians[first.key]))
    assert (timed.metric, timed.unit, timed.log_ratios) == ("latency_s", "s", ())


def test_evidence_by_hand(tmp_path: Path) -> None:
    base = read_benchmarks([write(tmp_path / "base.json", entry("a", [1.0, 2.0, 3.0]), entry("gone", [1.0]))])
    head = read_benchmarks([write(tmp_path / "head.json", entry("a", [4.0]), entry("new", [1.0]))])
    same, gone, new = benchmark_evidence(base, head)
    (timed,) = same.timed
    assert (timed.base, timed.base_logs, timed.head_logs) == (2.0, (math.log(2),), (math.log(4),))
    assert gone.spoiled == ("missing", "head did not measure this cell")
    assert new.spoiled == ("missing", "base did not measure this cell")


def test_times_of_another_machine_are_refused(tmp_path: Path) -> None:
    one = read_benchmarks([write(tmp_path / "a.json", entry("a", [1.0]))])
    other = read_benchmarks([write(tmp_path / "b.json", entry("a", [1.0]), cpu="Other CPU")])
    (evidence,) = benchmark_evidence(one, other)
    assert evidence.spoiled is not None
    assert evidence.spoiled[0] == "other_machine"
    assert "processor Example CPU against Other CPU" in evidence.spoiled[1]
    unknown = read_benchmarks([write(tmp_path / "c.json", entry("a", [1.0]), machine_info={})])
    assert benchmark_evidence(one, unknown)[0].spoiled is None  # nothing says that it is another
    with pytest.raises(InputError, match="another machine than the files before it"):
        read_benchmarks([tmp_path / "a.json", tmp_path / "b.json"])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "it holds no benchmark"),
        ([entry("a", None)], r"no raw data \(stats.data\); save it again with --benchmark-save-data"),
        ([entry("a", [])], "no raw data"),
        ([entry("a", [1.0, 0.0])], "expected positive numbers of seconds"),
        ([entry("a", [1.0, True])], "expected positive numbers"),
        ([entry("a", [1.0, "2"])], "expected positive numbers"),
        ([entry("a", [float("nan")])], "expected positive numbers"),
        ([entry("a", [float("inf")])], "expected positive numbers"),
        ([entry("a", [1.0]), entry("a", [1.0])], "a second 'a'"),
        ([entry("", [1.0])], "has no fullname"),
        ([entry("a", [1.0], key=3)], "has no fullname"),
        ([entry("a", [1.0, 2.0], process_rounds=[{"rounds": 1}])], "does not add up to its 2 rounds"),
        ([entry("a", [1.0, 2.0], process_rounds=[{"rounds": 3}, {"rounds": -1}])], "does not add up"),
        ([entry("a", [1.0], process_rounds="x")], "does not add up"),
        ([entry("a", [1.0], process_rounds=[1])], "does not add up"),
    ],
)
def test_what_is_no_such_file_is_one_clear_line(tmp_path: Path, entries: list[dict[str, Any]], words: str) -> None:
    path = write(tmp_path / "a.json", *entries)
    with pytest.raises(InputError, match=words) as caught:
        read_benchmarks([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"benchmarks": {}}', '{"benchmarks": [1]}', "[" * 10_000])
def test_what_is_no_json_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: "):
        read_benchmarks([tmp_path / "a.json"])


def test_no_file_a_missing_one_and_the_same_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pytest-benchmark file was given"):
        read_benchmarks([])
    with pytest.raises(InputError, match="cannot be read"):
        read_benchmarks([tmp_path / "absent.json"])
    path = write(tmp_path / "a.json", entry("a", [1.0]))
    (tmp_path / "copy.json").write_text(path.read_text())
    with pytest.raises(InputError, match="given twice"):
        read_benchmarks([path, tmp_path / "copy.json"])


def test_odd_machine_and_commit_sections_say_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", entry("a", [1.0]), machine_info={"cpu": [], "system": {}}, commit_info={"id": {}})
    found = read_benchmarks([path])
    assert (found.machine, found.commit, found.python) == ({}, None, None)


# On the command line


def gated(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, slower: float
) -> tuple[int, dict[str, Any]]:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    draw = random.Random(3)
    flags: list[object] = ["--json", "--out", tmp_path / "out"]
    for side, factor in (("baseline", 1.0), ("current", 1.0 + slower)):
        for number in range(processes):
            times = [0.01 * factor * (1 + 0.003 * draw.random()) for _ in range(5)]
            flags += [f"--{side}", write(tmp_path / f"{side}-{number}.json", entry("a", times))]
    outcome = command("gate", *flags)
    return outcome.code, json.loads(outcome.out)


def test_six_files_a_side_are_judged(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document = gated(command, tmp_path, monkeypatch, processes=6, slower=0.0)
    assert (code, document["result"]["verdict"], document["result"]["pairs"]) == (0, "PASS", 6)
    context = document["context"]
    assert context["base"]["name"] == f"{tmp_path / 'baseline-0.json'} and 5 more"
    assert (context["paired"], context["base"]["commit"], context["device_name"]) == (
        False,
        "abc",
        "Example CPU, Linux",
    )
    assert (tmp_path / "out" / "junit.xml").exists()


def test_a_slower_head_fails(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gated(command, tmp_path, monkeypatch, processes=6, slower=0.1)[0] == 1


def test_one_file_is_one_process_and_too_little(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document = gated(command, tmp_path, monkeypatch, processes=1, slower=0.5)
    assert code == 3
    assert document["result"]["cells"][0]["outcome"]["code"] == "too_few_processes"


def test_a_run_against_what_was_exported_of_it(
    command: Callable[..., Any], measure: Callable[[Path], StoredRun], tmp_path: Path
) -> None:
    stored = measure(tmp_path / "run")
    write_pytest_benchmark_json(stored, tmp_path / "export.json")
    outcome = command("gate", "--baseline", tmp_path / "run", "--current", tmp_path / "export.json", "--json")
    cells = json.loads(outcome.out)["result"]["cells"]
    assert sorted(cell["key"] for cell in cells) == sorted(m.key for m in stored.measurements)
    assert outcome.code == 3  # two processes
    assert "cannot be read as JSON" in command("gate", "--baseline", "a", "--baseline", "b", "--current", "c").complaint
