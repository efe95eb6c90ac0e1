"""The book that is kept of a comparison: what counts as equal, what was read, what nobody asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dlmbench import InputError
from dlmbench.bench.verify.folder import TOLERANCE, Folder, Item
from dlmbench.bench.verify.tally import Tally


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    save_file(
        {
            "x": torch.tensor([1.0, 100.0, 0.0]),
            "ids": torch.tensor([[1, 2], [3, 4]]),
            "logs": torch.tensor([0.0, -torch.inf]),
            "count": torch.tensor(7),
            "empty": torch.zeros(0),
        },
        tmp_path / "io.safetensors",
    )
    return Folder(tmp_path)


def only(folder: Folder) -> Item:
    (item,) = folder.items
    return item


@pytest.mark.parametrize(
    ("ours", "passed"),
    [
        # |ours - theirs| <= 1e-4 + 1e-4 |theirs|: 2e-4 at 1, about 1e-2 at 100, 1e-4 at 0.
        ([1.0, 100.0, 0.0], True),
        ([1.00019, 100.0, 0.0], True),
        ([1.00021, 100.0, 0.0], False),
        ([1.0, 100.0100, 0.0], True),
        ([1.0, 100.0103, 0.0], False),
        ([1.0, 100.0, 0.99e-4], True),
        ([1.0, 100.0, -1.01e-4], False),
        ([1.0, 100.0, torch.nan], False),
        ([torch.inf, 100.0, 0.0], False),
    ],
)
def test_close_is_absolute_and_relative(folder: Folder, ours: list[float], passed: bool) -> None:
    folder.compare("x", torch.tensor(ours, dtype=torch.float64))
    item = only(folder)
    assert item.passed is passed
    assert item.tolerance == TOLERANCE == 1e-4


def test_the_error_is_the_largest_difference(folder: Folder) -> None:
    folder.compare("x", torch.tensor([1.5, 99.0, 0.0]))
    assert only(folder).error == 1.0


def test_a_tolerance_may_be_given_in_one_or_two_parts(folder: Folder) -> None:
    for tolerance, passed in ((1e-2, True), (1e-3, True), ((1e-3, 0.0), False), ((0.0, 1e-3), True), (1e-6, False)):
        folder.items.clear()
        folder.compare("x", torch.tensor([1.0, 100.09, 0.0]), tolerance)  # 0.09 <= 1e-3 + 1e-3 x 100
        assert only(folder).passed is passed, tolerance


def test_equal_infinities_are_equal(folder: Folder) -> None:
    folder.compare("logs", torch.tensor([0.0, -torch.inf]))
    assert (only(folder).passed, only(folder).error) == (True, 0.0)


@pytest.mark.parametrize(
    "ours",
    [
        [0.0, torch.inf],
        [0.0, -1e30],
        [0.0, 3.0],
        [-torch.inf, -torch.inf],
        [0.0, torch.nan],
    ],
)
def test_nothing_else_equals_an_infinity(folder: Folder, ours: list[float]) -> None:
    folder.compare("logs", torch.tensor(ours))
    assert only(folder).passed is False


def test_a_recorded_nan_is_matched_by_nothing(folder: Folder) -> None:
    """A recording with NaN in it is broken; agreeing with it would prove nothing."""
    folder.compare("x", torch.tensor([torch.nan]), expected=torch.tensor([torch.nan]))
    assert only(folder).passed is False


def test_narrow_dtypes_are_compared_at_their_value(folder: Folder) -> None:
    folder.compare("x", torch.tensor([1.0, 100.0, 0.0], dtype=torch.bfloat16))
    assert only(folder).passed is True


@pytest.mark.parametrize("method", ["compare", "exact"])
def test_another_shape_is_a_miss_even_where_it_would_broadcast(folder: Folder, method: str) -> None:
    getattr(folder, method)("ids", torch.tensor([[1, 2]]))
    item = only(folder)
    assert (item.passed, item.error, item.note) == (False, None, "shape [1, 2], recorded [2, 2]")


def test_nothing_equals_nothing(folder: Folder) -> None:
    folder.compare("empty", torch.zeros(0))
    assert (only(folder).passed, only(folder).error) == (True, 0.0)


def test_exact_counts_what_differs(folder: Folder) -> None:
    folder.exact("ids", torch.tensor([[1, 2], [0, 0]]))
    assert (only(folder).passed, only(folder).error, only(folder).tolerance) == (False, 2.0, 0.0)
    folder.items.clear()
    folder.exact("ids", [[1, 2], [3, 4]])
    assert (only(folder).passed, only(folder).error) == (True, 0.0)


def test_a_number_that_differs_is_shown_beside_the_recorded_one(folder: Folder) -> None:
    folder.exact("count", 8, note="forwards")
    assert only(folder).note == "8, recorded 7; forwards"
    folder.items.clear()
    folder.exact("count", 7, note="forwards")
    assert only(folder).note == "forwards"
    folder.items.clear()
    folder.exact("nfe", 3, expected=4)
    assert (only(folder).note, only(folder).error) == ("3, recorded 4", 1.0)


def test_what_was_asked_for_is_not_left_over(folder: Folder) -> None:
    folder.compare("x", torch.zeros(3))
    folder.inputs("ids")
    folder.tensor("count")
    assert [item.name for item in folder.left_over()] == ["empty", "logs"]
    assert all(item.passed is None and item.note == "no check knows this tensor" for item in folder.left_over())


def test_an_expectation_of_ones_own_reads_no_tensor(folder: Folder) -> None:
    folder.compare("x", torch.zeros(1), expected=torch.zeros(1))
    assert "x" in [item.name for item in folder.left_over()]


def test_each_file_has_its_own_names(folder: Folder, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "io_generate.safetensors")
    folder.compare("x", torch.zeros(2), file="io_generate.safetensors")
    assert only(folder).passed
    assert "x" in [item.name for item in folder.left_over()], "that of io.safetensors"


def test_a_missing_tensor_is_named_with_its_file(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"io\.safetensors: nosuch is missing; record it again"):
        folder.tensor("nosuch")
    with pytest.raises(InputError, match=r"io_generate\.safetensors: x is missing"):
        folder.tensor("x", "io_generate.safetensors")
    assert folder.names("io_generate.safetensors") == []


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"not a safetensors file", b"\xff" * 64])
def test_a_broken_file_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "io.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"io\.safetensors: cannot be read \(.*\); record it again"):
        Folder(tmp_path).names()


def test_a_broken_file_stays_broken(tmp_path: Path) -> None:
    """A caller that goes on after the first refusal must not take it for a file without tensors."""
    (tmp_path / "io.safetensors").write_bytes(b"broken")
    folder = Folder(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be read"):
            folder.names()


def test_reasons_are_kept(folder: Folder) -> None:
    folder.fail("run", "RuntimeError: no")
    folder.skip("other", "drawn from an unknown seed")
    assert folder.items == [
        Item("run", None, None, False, "RuntimeError: no"),
        Item("other", None, None, None, "drawn from an unknown seed"),
    ]  # fmt: skip


def test_a_tally_counts_forwards_of_the_target_and_knows_what_came_before_each_write() -> None:
    tally = Tally()
    calls: list[tuple[Any, ...]] = [
        ("target", "prefill", 2, 5, 5, 0, "causal"),
        ("draft", "draft", 2, 8, 13, 8, "bidirectional"),
        ("target", "verify", 2, 9, 14, 9, "causal"),
    ]
    for call in calls:
        with tally.forward(*call):
            pass
        if call[0] == "draft":
            tally.write(None, torch.zeros(2, 8), 0, committed=False)
    tally.write(None, torch.zeros(2, 8), 1, offset=3)
    assert tally.nfe == 2
    assert tally.lengths == [5, 8, 9]
    assert tally.forwards == calls
    assert tally.after == [2, 3]
    assert [(step, offset, committed) for _, _, step, offset, committed in tally.writes] == [
        (0, 0, False),
        (1, 3, True),
    ]
