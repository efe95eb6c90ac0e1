"""The study of real gates: its plan, its record, what it makes of one, and gates on workers that answer at once."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.gate.planted import PLANTED, SLOWDOWN, WHERE, Planted
from dlmbench.bench.gate.study import Gate, append_gate, kinds, main, read_gates, report, run_gate, summary
from dlmbench.models.names import AR, MASKED_DIFFUSION
from dlmbench.profiles.gate import Policy

KEYS = (f"small/{PLANTED[AR]}/L=4", f"small/{PLANTED[MASKED_DIFFUSION]}/L=4,T=2")


def gate(
    number: int, verdict: Any = "PASS", slowdown: float = 0.0, failed: tuple[str, ...] = (), pairs: int = 6
) -> Gate:
    draw = random.Random(number)
    where = (AR, MASKED_DIFFUSION)[number % 2] if slowdown else None
    ratios = {
        key: tuple(draw.gauss(0.05 if Planted(slowdown, where).is_in(key) else 0.0, 0.01) for _ in range(pairs))
        for key in KEYS
    }
    seconds, began = 60.0 + number, "2026-11-28T10:00:00"
    return Gate(number, slowdown, where, verdict, "c", seconds, pairs, ratios, failed, began, load=0.5, cpus=2)


def test_kinds_are_mixed_and_the_same_for_a_seed() -> None:
    planned = kinds(100, 30, [0.05, 0.1], seed=0)
    assert len(planned) == 160
    assert sum(kind == Planted() for kind in planned) == 100
    for slowdown in (0.05, 0.1):
        assert sum(kind == Planted(slowdown, AR) for kind in planned) == 15
        assert sum(kind == Planted(slowdown, MASKED_DIFFUSION) for kind in planned) == 15
    assert planned == kinds(100, 30, [0.05, 0.1], seed=0) != kinds(100, 30, [0.05, 0.1], seed=1)
    assert any(kind.slowdown for kind in planned[:20])


def test_what_is_planted_reaches_one_side_and_one_generator() -> None:
    assert Planted().variables == {}
    assert Planted(0.05, AR).variables == {SLOWDOWN: "0.05", WHERE: AR}
    assert [Planted(0.05, AR).is_in(key) for key in KEYS] == [True, False]
    assert not any(Planted().is_in(key) for key in KEYS)


def test_a_record_is_read_as_it_was_written_and_in_order(tmp_path: Path) -> None:
    gates = [gate(2), gate(0, "FAIL", 0.05, (KEYS[0],)), gate(1)]
    for one in gates:
        append_gate(tmp_path, one)
    assert read_gates(tmp_path) == sorted(gates, key=lambda one: one.number)
    assert read_gates(tmp_path / "nowhere") == []
    (tmp_path / "gates.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(InputError, match=r"gates.jsonl:1: not a gate of this study"):
        read_gates(tmp_path)


def test_shares_by_hand() -> None:
    """Of four gates with a slowdown two find it, one for the wrong cell, one says nothing."""
    right = [gate(0, "FAIL", 0.05, (KEYS[0],)), gate(1, "FAIL", 0.05, (KEYS[1],))]
    wrong = gate(2, "FAIL", 0.05, (KEYS[1],))
    equal, planted = summary(
        [gate(5), gate(6, "INCONCLUSIVE", pairs=18), *right, wrong, gate(3, "PASS", 0.05)], Policy()
    )
    assert (equal["gates"], equal["fail"]["count"], equal["inconclusive"]["share"]) == (2, 0, 0.5)
    assert equal["fail"]["interval_95"][1] > 0.5  # two gates show little
    assert equal["pairs"] == {"mean": 12.0, "max": 18}
    assert "found_in_the_right_cell" not in equal
    assert (planted["fail"]["count"], planted["found_in_the_right_cell"]["count"]) == (3, 2)
    assert planted["seconds"] == {"median": 61.5, "max": 63.0, "within_3_min": 4}
    assert planted["change_seen"]["planted"] == pytest.approx(0.05, abs=0.01)
    assert planted["change_seen"]["equal"] == pytest.approx(0.0, abs=0.01)


def test_a_report_has_shares_and_gates_drawn_again(tmp_path: Path) -> None:
    for number in range(6):
        append_gate(tmp_path, gate(number))
    append_gate(tmp_path, gate(6, "FAIL", 0.05, (KEYS[0],)))
    lines = report(tmp_path, 160, again=200, seed=0)
    assert lines[2].startswith("| 0 % | 6 | 0 (0.0 % [0.0, 39.0]) | 6 (100.0 %")
    assert lines[3].startswith("| 5 % | 1 | 1 (100.0 %")
    document = json.loads((tmp_path / "gate-study.json").read_text())
    assert (document["gates"], document["planned"], document["recorded_pairs"]) == (7, 160, 36)
    assert document["pair_sd"] == pytest.approx(0.01, rel=0.5)
    none = next(row for row in document["drawn_again"]["rows"] if row["slowdown"] == 0.0)
    assert none["fail"][0] == 0.0
    assert (tmp_path / "gate-power-recorded.png").stat().st_size > 10_000


def test_without_a_gate_of_equal_programs_there_is_nothing_to_report(tmp_path: Path) -> None:
    append_gate(tmp_path, gate(6, "FAIL", 0.05, (KEYS[0],)))
    with pytest.raises(InputError, match="no gate of equal programs"):
        report(tmp_path, 160, again=10, seed=0)


@pytest.fixture
def workers(handles: Any) -> Any:
    """Workers as slow as their environment plants them."""

    def plan(handle: Any) -> None:
        variables, draw = handle.launch.variables, random.Random(handle.number)
        planted = Planted(float(variables.get(SLOWDOWN, 0.0)), variables.get(WHERE))
        process = draw.gauss(0, 0.003)
        handle.worker.latency = lambda cell, _: (
            0.01 * (1 + planted.slowdown * planted.is_in(cell.key)) * (1 + process) * (1 + 0.01 * draw.random())
        )

    handles.plan = staticmethod(plan)
    return handles


def test_gates_are_whole_gates(workers: Any) -> None:
    found = run_gate(3, Planted(0.1, MASKED_DIFFUSION))
    assert (found.verdict, found.failed, tuple(found.log_ratios)) == ("FAIL", (KEYS[1],), KEYS)
    assert len(found.log_ratios[KEYS[0]]) == found.pairs >= 6
    equal = run_gate(4, Planted())
    assert (equal.verdict, equal.failed, equal.where) == ("PASS", (), None)
    assert all(handle.ended for handle in workers.started)


def test_the_command_goes_on_where_it_was_ended_and_reports_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dlmbench.bench.gate import study

    measured: list[int] = []

    def measure(number: int, planted: Planted) -> Gate:
        measured.append(number)
        verdict = "FAIL" if planted.slowdown else "PASS"
        return replace(gate(number, verdict), slowdown=planted.slowdown, where=planted.where)

    monkeypatch.setattr(study, "run_gate", measure)
    fixed = ["--out", str(tmp_path), "--equal", "3", "--planted", "2", "--slowdown", "0.05", "--again", "20"]
    main([*fixed, "--shard", "0/2", "--most", "1"])
    main([*fixed, "--shard", "1/2"])
    assert sorted(measured) == [0, 1, 3]
    assert not (tmp_path / "gate-study.json").exists()
    main(fixed)
    assert sorted(measured) == [0, 1, 2, 3, 4]
    assert (tmp_path / "gate-study.json").exists()
    assert "| 5 % | 2 | 2 (100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_refused(tmp_path: Path, shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--out", str(tmp_path), f"--shard={shard}"])
    assert end.value.code == 2
    assert "expected I/N with I below N" in capsys.readouterr().err
