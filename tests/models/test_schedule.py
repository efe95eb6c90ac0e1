"""How steps and positions divide: the reference's own counts, the definition, and what does not fit."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.models.schedule import steps_per_block, transfer_counts

REFERENCE = Path(__file__).parents[1] / "golden" / "noise_schedules" / "transfer_counts.json"


@given(positions=st.integers(1, 300), steps=st.integers(1, 300))
def test_counts_are_even_and_the_larger_come_first(positions: int, steps: int) -> None:
    counts = transfer_counts(positions, steps)
    assert len(counts) == steps
    assert sum(counts) == positions
    assert counts == sorted(counts, reverse=True)
    assert counts[0] - counts[-1] <= 1


def test_counts_by_hand() -> None:
    assert transfer_counts(10, 4) == [3, 3, 2, 2]
    assert transfer_counts(4, 6) == [1, 1, 1, 1, 0, 0]


def test_counts_are_lladas() -> None:
    cases = json.loads(REFERENCE.read_text())["llada_transfer_counts"]
    assert len(cases) > 10
    for case in cases:
        assert transfer_counts(case["masks"], case["steps"]) == case["counts"]


@given(block=st.integers(1, 16), blocks=st.integers(1, 16), data=st.data())
def test_blocks_share_the_steps(block: int, blocks: int, data: st.DataObject) -> None:
    each = data.draw(st.integers(1, block))
    assert steps_per_block(block * blocks, each * blocks, block) == each


@pytest.mark.parametrize(
    ("length", "steps", "block", "message"),
    [
        (8, 9, 8, r"T=9 exceeds length L=8.*choose T <= L"),
        (8, 8, 3, r"L=8 is not divisible by 3; choose a divisor of L"),
        (12, 8, 4, r"T=8 is not divisible by the 3 blocks of 4 in L=12; choose a multiple of 3"),
        (12, 2, 4, r"T=2 is not divisible by the 3 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(length: int, steps: int, block: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        steps_per_block(length, steps, block)
