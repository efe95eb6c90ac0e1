"""The commit schedules that ship: whole, of the trained models that ship, and found by rule, L and block length."""

import pytest

from dlmbench import InputError
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import make_plan
from dlmbench.bench.schedules import SHIPPED, Frame, _read, drafted, read_schedule, shipped_rules
from dlmbench.bench.suites import load_suite

FILES = sorted(SHIPPED.glob("*/*.json"))


def test_every_rule_of_the_suite_that_records_them_ships() -> None:
    assert shipped_rules() == ["drafts", "dynamic", "entropy", "threshold"]
    lengths = {length for grid in load_suite("schedules").grid for length in grid.lengths}
    for rule in shipped_rules():
        found = {_read(path).length for path in FILES if path.parent.name == rule}
        assert found == ({length - 1 for length in lengths} if rule == "drafts" else lengths)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem[-24:]}")
def test_a_shipped_schedule_commits_every_position_and_fits_its_frame(path: object) -> None:
    content = _read(path)  # type: ignore[arg-type]
    assert content.weights in ("trained:mdlm", "trained:block-diffusion")
    assert len(content.rows) >= 5
    assert {sum(row) for row in content.rows} == {content.length}
    reference = f"recorded:{path.parent.name}"  # type: ignore[attr-defined]
    assert read_schedule(reference, Frame(0, content.length, content.block_length)).rows == content.rows


def test_an_unknown_rule_lists_those_that_ship() -> None:
    with pytest.raises(InputError, match="recorded:nosuch': no such rule ships; choose from drafts, dynamic"):
        read_schedule("recorded:nosuch", Frame(0, 16, 16))
    with pytest.raises(InputError, match="0 schedules fit L=17"):
        read_schedule("recorded:threshold", Frame(0, 17, 17))
    assert read_schedule("recorded:drafts", drafted(64)).rows


def test_random_weights_replay_what_trained_ones_committed() -> None:
    options = RunOptions(
        suite="lesson", device="cpu", threads=1, weights="random", lengths=(64,), steps=("L",), threshold=0.9,
        generators=("fast-dllm",), commit_schedule="recorded:threshold", block_lengths=("16",),
    )  # fmt: skip
    cells = [c for p in make_plan(options).pairings for c in p.cells if c.generator == "fast-dllm"]
    assert cells
    assert all(c.decode.commit_schedule and c.decode.commit_schedule.rows for c in cells)
