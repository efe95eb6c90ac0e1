"""A run's files cut off at every byte: whole trials survive, the torn line is said, and no cut is a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from dlmbench import InputError
from dlmbench.profiles.record import Cell, Measurement, Reason, Run, Trial, Value
from dlmbench.profiles.store import (
    StoredRun,
    append_trials,
    read_run,
    rewrite_trials,
    write_measurements,
    write_run,
)

CELLS = tuple(Cell(pair="small", side="ar", generator="ar", length=length) for length in (4, 8, 16))


@pytest.fixture
def stored(tmp_path: Path) -> StoredRun:
    """A run of three trials; a message holds characters of two to four bytes, so that some cuts fall inside one."""
    run = Run(
        id="r", created="2026-03-01T10:15:00+00:00", suite="ci", command=("dlmbench", "run"), seed=0, device="cpu",
        device_name="Example CPU", processes=1, dlmbench_version="0.1.0", settings={}, prompts={}, pairs=(),
        plan=(CELLS,), environment={},
    )  # fmt: skip
    reason = Reason(code="crash", message="é€𝄞 \\u0000\n")
    trials = [
        Trial(cell=cell, key=cell.key, process=0, pairing="p", order=0, status="failed", reason=reason)
        for cell in CELLS
    ]
    metrics = {"latency_s": Value(value=0.1, low=0.09, high=0.11, n=5, level=0.95)}
    write_run(tmp_path, run)
    append_trials(tmp_path, trials)
    write_measurements(tmp_path, [Measurement(cell=cell, key=cell.key, status="ok", metrics=metrics) for cell in CELLS])
    return read_run(tmp_path)


@pytest.mark.parametrize("name", ["trials.jsonl", "measurements.jsonl"])
def test_a_record_torn_at_any_byte_loses_its_last_line_alone(stored: StoredRun, name: str) -> None:
    path = stored.path / name
    whole = path.read_bytes()
    everything = stored.trials if name == "trials.jsonl" else stored.measurements
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = read_run(stored.path)
        found = again.trials if name == "trials.jsonl" else again.measurements
        # A line that lacks its newline alone is whole.
        assert found == everything[: sum(end <= cut for end in ends)], cut
        torn = cut not in ends and cut not in (0, *(end + 1 for end in ends))
        assert ["torn last line dropped" in str(warning.message) for warning in caught] == [True] * torn, cut


def test_what_is_appended_after_a_torn_line_was_dropped_is_read(stored: StoredRun) -> None:
    path = stored.path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="torn last line"):
        kept = read_run(stored.path).trials
    rewrite_trials(stored.path, kept)
    append_trials(stored.path, stored.trials[len(kept) :])
    assert read_run(stored.path).trials == stored.trials


def test_a_run_file_torn_at_any_byte_is_refused_in_one_line(stored: StoredRun) -> None:
    path = stored.path / "run.json"
    whole = path.read_bytes()
    for cut in range(len(whole.rstrip())):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"run\.json: .*(restore|measure again)"):
            read_run(stored.path)
