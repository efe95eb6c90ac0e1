"""Commit schedules: the blocks that they fill, where they come from, what does not fit, and how they are named."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.bench.opened import settings_of
from dlmbench.bench.schedules import (
    FOLDER,
    Frame,
    adaptive,
    constant_rows,
    counts_of,
    even_schedule,
    is_adaptive,
    read_schedule,
    write_schedules,
)
from dlmbench.profiles.record import Cell, Commit, CommitSchedule, Decode, PairRecord, Timeline, Trial

PLAIN: dict[str, Any] = {"sampler": None, "threshold": None, "factor": None, "entropy_bound": None}


def frame(length: int = 8, block: int = 8, steps: int = 8, aligned: int = 0) -> Frame:
    return Frame(aligned, length, block, steps)


def write(path: Path, **fields: Any) -> Path:
    content = {
        "schema_version": 1, "recorded_from": "a/b/L=8", "weights": "w", "length": 8, "block_length": 8,
        "rows": [[3, 1, 4], [8]],
    }  # fmt: skip
    path.write_text(json.dumps(content | fields))
    return path


# Blocks


@pytest.mark.parametrize(
    ("aligned", "length", "block", "expected"),
    [
        (0, 8, 8, [8]),
        (0, 8, 4, [4, 4]),
        (0, 10, 4, [4, 4, 2]),
        # A prompt of 5 ends inside the block 4 ... 7: three places are left in it, then one block of four, then one.
        (5, 8, 4, [3, 4, 1]),
        (4, 8, 4, [4, 4]),
        (3, 1, 4, [1]),
        (6, 5, 4, [2, 3]),
    ],
)
def test_blocks_by_hand(aligned: int, length: int, block: int, expected: list[int]) -> None:
    assert frame(length, block, aligned=aligned).blocks == expected


def test_fewer_tokens_than_the_prompts_block_has_room_for() -> None:
    """A prompt of 5 leaves 3 places of its block of 8; only 2 tokens are wanted."""
    assert frame(2, 8, aligned=5).blocks == [2]


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 20))
def test_blocks_are_those_of_the_absolute_positions(aligned: int, length: int, block: int) -> None:
    positions = range(aligned, aligned + length)
    expected = [len(list(group)) for _, group in itertools.groupby(positions, lambda p: p // block)]
    assert frame(length, block, aligned=aligned).blocks == expected


# Even and constant


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (frame(8, 8, 8), (1,) * 8),
        (frame(8, 8, 3), (3, 3, 2)),
        (frame(8, 4, 4), (2, 2, 2, 2)),
        (frame(8, 4, 2), (4, 4)),
        # T = 3 over two blocks: two steps each.
        (frame(8, 4, 3), (2, 2, 2, 2)),
        # Blocks of 3, 4 and 1; T = 6 gives each two steps, and the last has one token only.
        (frame(8, 4, 6, aligned=5), (2, 1, 2, 2, 1)),
    ],
)
def test_even_by_hand(asked: Frame, expected: tuple[int, ...]) -> None:
    assert even_schedule(asked) == CommitSchedule(source="even", rows=(expected,))


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        (frame(8, 8), 3, (3, 3, 2)),
        (frame(8, 4), 3, (3, 1, 3, 1)),
        (frame(8, 4), 4, (4, 4)),
        (frame(8, 4), 9, (4, 4)),
        (frame(8, 4, aligned=5), 2, (2, 1, 2, 2, 1)),
    ],
)
def test_constant_by_hand(asked: Frame, count: int, expected: tuple[int, ...]) -> None:
    assert constant_rows(asked, count) == expected
    assert read_schedule(f"constant:{count}", asked) == CommitSchedule(source=f"constant:{count}", rows=(expected,))


@given(st.integers(0, 20), st.integers(1, 40), st.integers(1, 12), st.integers(1, 40), st.integers(1, 12))
def test_every_schedule_fills_every_block(aligned: int, length: int, block: int, steps: int, count: int) -> None:
    """No step commits nothing, and no step crosses a block's end."""
    asked = frame(length, block, steps, aligned)
    for row in (even_schedule(asked).rows[0], constant_rows(asked, count)):
        assert min(row) >= 1
        ends, reached = set(itertools.accumulate(asked.blocks)), set(itertools.accumulate(row))
        assert ends <= reached
        assert sum(row) == length


# Files and folders


def test_a_file_is_taken_with_its_rows_and_named_by_them(tmp_path: Path) -> None:
    path = write(tmp_path / "one.json")
    digest = hashlib.sha256(b"[[3, 1, 4], [8]]").hexdigest()[:8]
    found = read_schedule(str(path), frame())
    assert found == CommitSchedule(source=f"recorded:{digest}", rows=((3, 1, 4), (8,)))


def test_the_name_follows_from_the_rows_alone(tmp_path: Path) -> None:
    """A key is what baselines are found by: it must not change with the file's name, or where it was recorded."""
    first = read_schedule(str(write(tmp_path / "a.json")), frame()).source
    assert read_schedule(str(write(tmp_path / "b.json", recorded_from="x", weights="y")), frame()).source == first
    assert read_schedule(str(write(tmp_path / "c.json", rows=[[8], [3, 1, 4]])), frame()).source != first


@pytest.mark.parametrize("inner", ["", FOLDER])
def test_a_runs_folder_gives_the_one_that_fits(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    (tmp_path / "run.json").write_text("{}")
    write(folder / "a.json", length=16, rows=[[16]])
    path = write(folder / "b.json")
    assert read_schedule(str(tmp_path), frame()) == read_schedule(str(path), frame())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"length": 16, "rows": [[16]]}, "recorded at L=16, block 8, asked for L=8, block 8; record one with these"),
        ({"block_length": 4}, "recorded at L=8, block 4, asked for L=8, block 8"),
        ({"rows": [[3, 1, 4], [7]]}, "a row commits 7 tokens, expected L=8"),
        ({"rows": [[9, -1]]}, r"rows: a step commits -1 tokens, expected 0 or more"),
        ({"rows": []}, "a row commits 0 tokens, expected L=8"),
        ({"rows": [[]]}, "a row commits 0 tokens, expected L=8"),
        ({"rows": [["x"]]}, r"rows\.0\.0: .*expected a file that a run wrote to schedules/"),
        ({"rows": None}, "rows: "),
        ({"colour": 1}, "colour: Extra inputs"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    path = write(tmp_path / "one.json", **fields)
    with pytest.raises(InputError, match=match) as caught:
        read_schedule(str(path), frame())
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\0", '{"rows": [[8]]}'])
def test_a_file_that_is_no_schedule_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "one.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"one\.json: "):
        read_schedule(str(path), frame())


@pytest.mark.parametrize(
    "reference", ["constant:0", "constant:-1", "constant:", "constant:1.5", "constant:9999999", "even", "", "nosuch"]
)
def test_what_names_no_schedule_is_refused_with_the_choice(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"expected constant:K, recorded:RULE, a schedule's \.json file or a run's folder|0 schedules"
    ):
        read_schedule(reference, frame())


def test_a_folder_with_none_or_several_that_fit_is_refused_with_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 schedules fit L=8, block 8, expected one \(recorded: none\)"):
        read_schedule(str(tmp_path), frame())
    write(tmp_path / "a.json", length=16, rows=[[16]])
    with pytest.raises(InputError, match=r"0 schedules fit L=8, block 8, expected one \(recorded: L=16 block=8\)"):
        read_schedule(str(tmp_path), frame())
    write(tmp_path / "b.json")
    write(tmp_path / "c.json", rows=[[8]])
    with pytest.raises(InputError, match="2 schedules fit L=8, block 8, expected one"):
        read_schedule(str(tmp_path), frame())


# Which cells depend on the data


@pytest.mark.parametrize(
    ("generator", "decode", "expected"),
    [
        ("masked-diffusion", {}, False),
        ("fast-dllm", {}, False),
        ("fast-dllm", {"threshold": 0.9}, True),
        ("fast-dllm", {"threshold": 0.0}, True),
        ("fast-dllm", {"factor": 1.0}, True),
        ("dream", {"entropy_bound": 0.1}, True),
        ("dream", {"sampler": "entropy"}, False),
        ("sdar", {}, True),  # its own default is the dynamic rule
        ("sdar", {"sampler": "low_confidence_static"}, False),
        ("sdar", {"sampler": "entropy_bounded"}, True),
        ("block-diffusion", {}, False),
        ("block-diffusion", {"sampler": "low_confidence_dynamic"}, True),
        ("speculative", {}, True),
        ("diffusion-gemma", {"entropy_bound": 0.1}, False),
        ("mine.py:make", {}, False),
        ("mine.py:make", {"threshold": 0.9}, True),
    ],
)
def test_which_rules_depend_on_the_data(generator: str, decode: dict[str, Any], expected: bool) -> None:
    assert adaptive(generator, PLAIN | decode) is expected


def test_a_cell_with_a_schedule_does_not_depend_on_the_data(fakes: ModuleType) -> None:
    schedule = CommitSchedule(source="even", rows=((8,),))
    cell: Cell = fakes.cell("fast-dllm", 8, decode=Decode(threshold=0.9))
    assert is_adaptive(cell)
    assert not is_adaptive(cell.model_copy(update={"decode": Decode(threshold=0.9, commit_schedule=schedule)}))
    assert not is_adaptive(fakes.cell("ar"))


# Recording


def commits(*steps: tuple[int, Sequence[int]], final: bool = True) -> tuple[Commit, ...]:
    return tuple(
        Commit(at_s=0.1, step=step, positions=tuple(places), tokens=(0,) * len(places), final=final)
        for step, places in steps
    )


def timeline(*found: Commit) -> Timeline:
    return Timeline(sample_order=0, latency_s=1.0, length=8, forwards=(), commits=found)


def test_counts_are_by_step_and_drafts_do_not_count() -> None:
    """Step 1 commits nothing for good, step 2 in two writes; a draft that may still change is no commit."""
    found = timeline(
        *commits((0, [0, 1, 2]), (2, [3])), *commits((1, [4, 5]), final=False), *commits((2, [4, 5]), (3, [6, 7]))
    )
    assert counts_of(found) == (3, 0, 3, 2)
    assert counts_of(timeline()) == ()
    assert counts_of(timeline(*commits((0, [1]), final=False))) == ()


def recorded_trial(fakes: ModuleType, generator: str, decode: Decode, process: int, *found: Commit) -> Trial:
    cell = fakes.cell(generator, 8, decode=decode, block_length=None)
    trial: Trial = fakes.trial(cell, [0.01], process, timeline=timeline(*found))
    return trial


def pair(weights: str) -> PairRecord:
    side = {"weights": weights}
    return PairRecord(
        name="small", description="", weights=weights, weights_note="", ar=side, diffusion=side, certificate=()
    )


def test_what_a_trained_run_committed_is_written_and_read_back(fakes: ModuleType, tmp_path: Path) -> None:
    rule = Decode(threshold=0.9)
    trials = [
        recorded_trial(fakes, "fast-dllm", rule, 0, *commits((0, [0, 1, 2]), (1, [3]), (2, [4, 5, 6, 7]))),
        recorded_trial(fakes, "fast-dllm", rule, 1, *commits((0, range(8)))),
        recorded_trial(fakes, "fast-dllm", Decode(), 0, *commits((0, range(8)))),
    ]
    (path,) = write_schedules(tmp_path, trials, [pair("/some/where/llada-8b")])
    assert path.parent == tmp_path / FOLDER
    content = json.loads(path.read_text())
    assert content["recorded_from"] == trials[0].key
    assert content["weights"] == "llada-8b", "a page that others read names no folder of ours"
    for reference in (path, tmp_path):
        assert read_schedule(str(reference), frame()).rows == ((3, 1, 4), (8,))


def test_random_weights_are_no_source(fakes: ModuleType, tmp_path: Path) -> None:
    trial = recorded_trial(fakes, "fast-dllm", Decode(threshold=0.9), 0, *commits((0, range(8))))
    assert write_schedules(tmp_path, [trial], [pair("random")]) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_is_safe_whatever_the_key(fakes: ModuleType, tmp_path: Path) -> None:
    trial = recorded_trial(fakes, "fast-dllm", Decode(threshold=0.9), 0, *commits((0, range(8))))
    hostile = trial.model_copy(update={"key": "../../etc/\x1b[31mpasswd " + "x" * 400})
    (path,) = write_schedules(tmp_path, [hostile], [pair("/w")])
    assert path.resolve().parent == tmp_path / FOLDER
    assert path.name.isprintable()
    assert len(path.name) < 200


def test_a_worker_is_given_the_rows(fakes: ModuleType) -> None:
    schedule = CommitSchedule(source="even", rows=((3, 5), (8,)))
    cell = fakes.cell("fast-dllm", 8, cache="dual", decode=Decode(threshold=0.9, commit_schedule=schedule))
    settings = settings_of(cell)
    assert settings.commit_schedule == ((3, 5), (8,))
    assert (settings.cache, settings.threshold, settings.steps) == ("dual", 0.9, 8)
    assert settings_of(fakes.cell("mdlm", 4)).commit_schedule is None
