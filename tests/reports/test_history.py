"""A folder of runs: what is read, in which order, and one note for each that is left out."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import ModuleType

import pytest

from dlmbench import InputError
from dlmbench.reports.history import Rate, read_history


def test_runs_are_found_at_any_depth_and_sorted_by_date(histories: ModuleType, tmp_path: Path) -> None:
    histories.write(tmp_path / "deep" / "er", 2, {histories.AR: 1.0})
    histories.write(tmp_path, 0, {histories.AR: 1.0})
    # 04:00 at +02:00 is 02:00 UTC, before the others' 03:00; no zone is UTC
    histories.write(tmp_path, 5, {histories.AR: 1.0}, created="2026-01-05T04:00:00+02:00")
    histories.write(tmp_path, 6, {histories.AR: 1.0}, created="2026-01-05T02:30:00")
    histories.write(tmp_path / ".hidden", 7, {histories.AR: 1.0})
    inside = histories.write(tmp_path, 8, {histories.AR: 1.0})
    histories.write(inside, 9, {histories.AR: 1.0})  # a run within a run's folder is not looked for
    found = read_history(tmp_path)
    assert [run.path.name for run in found.runs] == ["005-ci", "006-ci", "000-ci", "002-ci", "008-ci"]
    assert found.notes == ()


def test_what_cannot_be_read_is_left_out_with_a_note(histories: ModuleType, tmp_path: Path) -> None:
    good, torn, broken, newer, dateless, cut = (histories.write(tmp_path, i, {histories.AR: 1.0}) for i in range(6))
    trials = (torn / "trials.jsonl").read_bytes()
    (torn / "trials.jsonl").write_bytes(trials + trials[: len(trials) // 2])
    (broken / "run.json").write_text("{")
    text = (newer / "run.json").read_text()
    (newer / "run.json").write_text(text.replace('"schema_version": 1', '"schema_version": 9'))
    (dateless / "run.json").write_text((dateless / "run.json").read_text().replace("2026-01-09T03", "yesterday"))
    (cut / "measurements.jsonl").write_text("{}\n{}\n")
    found = read_history(tmp_path)
    assert [run.path for run in found.runs] == [good, torn]
    notes = {note.path: note.text for note in found.notes}
    assert "torn last line dropped" in notes[torn]
    assert "left out" not in notes[torn]
    assert "cannot be read as JSON" in notes[broken]
    assert "schema_version 9 is newer" in notes[newer]
    assert "expected a date and time" in notes[dateless]
    assert "the record is corrupted" in notes[cut]
    assert all("\n" not in text for text in notes.values())


def test_a_copy_counts_once_and_an_unfinished_run_as_far_as_it_goes(histories: ModuleType, tmp_path: Path) -> None:
    histories.write(tmp_path / "a", 0, {histories.AR: 1.0})
    histories.write(tmp_path / "b", 0, {histories.AR: 1.0})
    histories.write(tmp_path, 1, {histories.AR: 1.0}, finished=None)
    found = read_history(tmp_path)
    assert len(found.runs) == 2
    assert [note.text.split(":")[0] for note in found.notes] == ["not finished", "left out"]


def test_a_folder_without_runs_is_one_clear_line(histories: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_history(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no run in it; expected folders written by"):
        read_history(tmp_path)
    path = histories.write(tmp_path, 0, {histories.AR: 1.0})
    (path / "run.json").write_text("[]")
    with pytest.raises(InputError, match="none of its 1 runs can be read; the first is left out: ") as caught:
        read_history(tmp_path)
    assert "\n" not in str(caught.value)


def test_rates_are_those_beside_the_cell(histories: ModuleType, tmp_path: Path) -> None:
    histories.write(tmp_path, 0, {histories.AR: 1.0}, rate=3e12)
    (run,) = read_history(tmp_path).runs
    rates = run.rates[histories.AR.key]
    assert rates.matmul == Rate(3e12, ("float32", 1024))
    assert rates.read == Rate(3e12, (1 << 20,))
    assert rates.limit == "matmul"  # 2e9 FLOP and 1e9 B at equal rates: the arithmetic takes longer
    assert run.created == datetime.datetime(2026, 1, 5, 3, tzinfo=datetime.UTC)
