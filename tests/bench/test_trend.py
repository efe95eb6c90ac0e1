"""`dlmbench trend` from the command line, over runs that the real loop made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench.profiles.store import MEASUREMENTS_FILE, StoredRun


@pytest.fixture
def folder(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> Path:
    """Two runs, the second without its measurements: it was cut off before they were computed."""
    place = tmp_path / "runs"
    place.mkdir()
    measure(place / "one")
    (measure(place / "two").path / MEASUREMENTS_FILE).unlink()
    return place


def test_a_folder_of_runs_becomes_a_page_and_tables(folder: Path, command: Callable[..., Any]) -> None:
    done = command("trend", folder)
    assert done.code == 0
    assert "2 runs" in done.out
    assert done.out.rstrip().endswith("trend.html")
    assert (folder / "trend.html").read_text().startswith("<!doctype html>")
    assert (folder / "trend-1.png").stat().st_size > 1000


def test_json_is_the_only_thing_on_standard_output(folder: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    done = command("trend", folder, "--json", "--metric", "nfe", "--out", tmp_path / "page")
    document = json.loads(done.out)
    assert document["metric"] == "nfe"
    (group,) = document["groups"]
    assert [len(cell["points"]) for cell in group["cells"]] == [2] * 6  # the cut-off run counts as far as it goes
    assert document["files"][-1] == str(tmp_path / "page" / "trend.html")
    assert not (folder / "trend.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere"], "no such folder"), (["."], "there is no run in it"), ([".", "--metric"], "requires an argument")],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in command("trend", *arguments).complaint
    assert list(tmp_path.iterdir()) == []


def test_a_metric_or_a_place_that_cannot_be_is_one_line(folder: Path, command: Callable[..., Any]) -> None:
    assert "metric 'speed' is unknown" in command("trend", folder, "--metric", "speed").complaint
    (folder / "file").write_text("")
    assert "cannot be written" in command("trend", folder, "--out", folder / "file").complaint
