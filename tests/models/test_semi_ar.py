"""How windows cover an output that is longer than the model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.models.semi_ar import Window, windows


def test_one_window_where_everything_fits() -> None:
    assert windows(3, 5, 8) == [Window(0, 3, 5)]
    assert windows(0, 8, 1024, 8) == [Window(0, 0, 8)]


def test_strides_by_hand() -> None:
    # MDLM's own example: 1024 positions, strides of 512, two of them.
    assert windows(0, 2048, 1024) == [Window(0, 0, 1024), Window(512, 512, 512), Window(1024, 512, 512)]
    # What is left at the end is less than a stride and gets more context.
    assert windows(2, 9, 8, 4) == [Window(0, 2, 6), Window(3, 5, 3)]


@given(st.integers(0, 20), st.integers(1, 200), st.integers(21, 40), st.integers(1, 20))
def test_windows_cover_the_output_once(prompt: int, length: int, model: int, stride: int) -> None:
    total = prompt + length
    found = windows(prompt, length, model, stride if total > model else None)
    assert {window.given + window.new for window in found} == {min(total, model)}
    done = prompt
    for window in found:
        assert window.start + window.given == done
        done += window.new
    assert done == total
    assert all(window.new == stride for window in found[1:-1])


def test_refusals() -> None:
    with pytest.raises(InputError, match="whole"):
        windows(0, 8, 16, 4)
    with pytest.raises(InputError, match="at most 7"):
        windows(8, 2, 8)
    with pytest.raises(InputError, match="1 to 7"):
        windows(0, 9, 8, 8)
