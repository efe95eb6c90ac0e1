"""Tasks with closed forms as a figure: what is drawn and told of invented records, and what is said without any."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.profiles.record import Value
from dlmbench.profiles.store import StoredRun
from dlmbench.profiles.studies import Studies, TaskCurve, TaskPoint
from dlmbench.reports.fig_tasks import MAX_LINES, tasks_figure, within
from dlmbench.reports.palette import LIGHT
from dlmbench.reports.plotting import Figure, style
from dlmbench.reports.study import Study


def point(steps: int, measured: float | None, closed_form: float | None) -> TaskPoint:
    """Measured with an interval of two points of per cent to either side."""
    if measured is None:
        return TaskPoint(steps=steps, measured=Value(value=None, why="not run"), closed_form=closed_form)
    low, high = max(0.0, measured - 0.02), min(1.0, measured + 0.02)
    value = Value(value=measured, low=low, high=high, n=2000, level=0.95)
    return TaskPoint(steps=steps, measured=value, closed_form=closed_form)


def curve(name: str, length: int, *points: TaskPoint) -> TaskCurve:
    return TaskCurve(
        task=name, description=f"what {name} asks", length=length, sampler="random order", source=f"form of {name}",
        points=points,
    )  # fmt: skip


COPY = curve("copy", 4, point(4, 1.0, 1.0), point(2, 1.0, 1.0), point(1, 1.0, 1.0))
SHUFFLE = curve("shuffle", 4, point(4, 1.0, 1.0), point(2, 0.37, 0.375), point(1, 0.05, 0.094))
GRID = curve("latin square", 16, point(16, 1.0, 1.0), point(4, 0.5, None), point(1, 0.02, None))


def draw(study: StoredRun, folder: Path, *curves: TaskCurve) -> Figure:
    # The first pair without tasks is passed over.
    studies = {"first": Studies(pair="first"), "second": Studies(pair="second", tasks=curves)}
    with style():
        return tasks_figure(Study(replace(study, studies=studies)), folder)


def test_a_panel_a_length_with_every_task_named(study: StoredRun, tmp_path: Path) -> None:
    figure = draw(study, tmp_path, COPY, SHUFFLE, GRID)
    assert figure.skipped is None
    assert (tmp_path / "tasks.png").read_bytes().startswith(b"\x89PNG")
    first, second = figure.svg.split("<svg ")[1:]
    assert ">copy<" in first
    assert ">shuffle<" in first
    assert "n = 4" in first
    assert ">latin square<" in second
    assert "n = 16" in second
    assert ">shuffle<" not in second


def test_the_sentence_has_the_task_that_falls_deepest_and_the_one_that_stays(study: StoredRun, tmp_path: Path) -> None:
    assert draw(study, tmp_path, COPY, SHUFFLE).sentence == (
        "Even with perfect predictions shuffle comes out right 100 % of the time at 1 token a step, 37 % at 2, 5 % at "
        "4; copy 100 % at 4. Tokens that depend on each other cannot be drawn in one step unharmed."
    )


def test_points_are_told_with_interval_and_closed_form(study: StoredRun, tmp_path: Path) -> None:
    alt = draw(study, tmp_path, SHUFFLE, GRID).alt
    assert "shuffle, n = 4: 1 token a step 100 % [98, 100], closed form 100 %" in alt
    assert "2 tokens a step 37.0 % [35.0, 39.0], closed form 37.5 %" in alt
    assert alt.count("closed form") == 4, "the grid has one at T = n only"


def test_the_caption_owes_the_reader_source_sampler_and_number(study: StoredRun, tmp_path: Path) -> None:
    caption = draw(study, tmp_path, COPY, SHUFFLE).caption
    for fact in (
        "the sampler is tested here, not a model", "arXiv 2510.04767", "shuffle: what shuffle asks",
        "shuffle: form of shuffle", "dlmbench.models.tasks", "Sampler random order", "n = 2,000 answers a point",
        "Intervals: 95 % confidence over answers.",
    ):  # fmt: skip
        assert fact in caption


def test_a_closed_form_outside_its_interval_is_counted(study: StoredRun, tmp_path: Path) -> None:
    # 37.5 % lies in [35, 39], 9.4 % not in [3, 7]; the points that are certain count for nothing.
    assert within([COPY, SHUFFLE, GRID]) == (1, 2)
    assert "inside the interval at 1 of the 2 points" in draw(study, tmp_path, COPY, SHUFFLE).caption
    assert "inside the interval" not in draw(study, tmp_path, COPY).caption


def test_a_point_without_a_value_is_left_out(study: StoredRun, tmp_path: Path) -> None:
    figure = draw(study, tmp_path, curve("shuffle", 4, point(4, 1.0, 1.0), point(2, None, 0.375), point(1, 0.1, 0.094)))
    assert "2 tokens" not in figure.alt
    assert "4 tokens a step 10.0 %" in figure.alt


def test_tasks_beyond_a_panel_are_counted(study: StoredRun, tmp_path: Path) -> None:
    many = [curve(f"task {i}", 4, *SHUFFLE.points) for i in range(MAX_LINES + 2)]
    assert "2 more tasks are left to the table." in draw(study, tmp_path, *many).caption


def test_only_colours_that_a_theme_repaints(study: StoredRun, tmp_path: Path) -> None:
    svg = draw(study, tmp_path, COPY, SHUFFLE, GRID).svg
    assert re.findall(r"#[0-9a-f]{6}", svg) == []
    assert LIGHT["diffusion"] not in svg


def test_a_hostile_record_is_one_line_of_plain_text(study: StoredRun, tmp_path: Path) -> None:
    bad = SHUFFLE.model_copy(update={"task": "a\x1b[31m\nb", "description": "x\x1b]0;title\x07y", "source": "s\u202et"})
    figure = draw(study, tmp_path, bad)
    for text in (figure.sentence, figure.caption, figure.alt):
        assert not re.search("[\x00-\x1f\u202e]", text)


@pytest.mark.parametrize("curves", [(), (curve("copy", 4, point(4, None, 1.0)),)], ids=["none", "no value"])
def test_without_tasks_the_reader_is_told_what_measures_them(
    study: StoredRun, tmp_path: Path, curves: tuple[TaskCurve, ...]
) -> None:
    figure = draw(study, tmp_path, *curves)
    assert "`dlmbench run lesson`" in (figure.skipped or "")
    assert list(tmp_path.iterdir()) == []
