"""The Pareto figure: where each setting stands, which are beaten, and what is said without judged texts."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.profiles.record import Measurement, Reason, TextQuality, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.fig_pareto import _panel, pareto_figure
from dlmbench.reports.page import notes
from dlmbench.reports.plotting import style
from dlmbench.reports.rows import results
from dlmbench.reports.study import Study


def judged(stored: StoredRun, share: dict[str | None, float]) -> StoredRun:
    """The run with a validity for each T (None: AR)."""

    def told(m: Measurement) -> Measurement:
        value = share.get(None if m.cell.steps is None else str(m.cell.steps))
        if m.status != "ok" or value is None:
            return m
        quality = Value(value=value, low=max(0.0, value - 0.05), high=min(1.0, value + 0.05), n=256, level=0.95)
        return m.model_copy(update={"metrics": {**m.metrics, "quality.validity": quality}})

    return replace(stored, measurements=tuple(told(m) for m in stored.measurements))


def test_every_judged_setting_has_a_place(study: StoredRun, tmp_path: Path) -> None:
    steps = sorted({m.cell.steps for m in study.measurements if m.cell.steps})
    run = judged(study, {None: 0.9, **{str(t): t / (2 * max(steps)) for t in steps}})
    with style():
        figure = pareto_figure(Study(run), tmp_path)
    assert figure.skipped is None
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "AR writes" in figure.sentence
    assert "90.0 % of its texts valid" in figure.sentence
    assert "diffusion at T =" in figure.sentence
    assert f"T = {steps[0]}" in figure.alt


def test_a_setting_that_is_slower_and_worse_is_not_on_the_front(study: StoredRun) -> None:
    steps = sorted({m.cell.steps for m in study.measurements if m.cell.steps})
    run = Study(judged(study, {None: 1.0, **{str(t): 0.2 for t in steps}}))
    panel = _panel(run, run.shapes[0])
    assert panel is not None
    fastest = max(panel.points, key=lambda p: p.number("throughput_tok_s"))
    front = panel.front
    assert fastest in front
    assert any(p.side == "ar" for p in front)
    # Equal validity: of the diffusion settings only the fastest is unbeaten.
    assert sum(p.side == "diffusion" for p in front) <= 1


def test_without_judged_texts_the_figure_says_what_is_missing(study: StoredRun, tmp_path: Path) -> None:
    figure = pareto_figure(Study(study), tmp_path)
    assert figure.skipped is not None
    assert "dlmbench train" in figure.skipped
    assert not list(tmp_path.iterdir())


def test_the_table_shows_validity_only_where_texts_were_judged(study: StoredRun) -> None:
    pair = study.run.pairs[0].name
    assert "valid texts" not in [column.header for column in results(study, pair).columns]
    table = results(judged(study, {None: 0.5}), pair)
    assert "valid texts" in [column.header for column in table.columns]
    assert any("over texts" in note for note in table.notes)


@pytest.mark.parametrize("message", ["its words repeat", "\x1b[31mred"])
def test_flattered_texts_are_named_in_the_report(study: StoredRun, message: str) -> None:
    quality = TextQuality(texts=32, seconds=1.0, metrics={}, flattered=Reason(code="x", message=message))
    first = study.trials[0].model_copy(update={"quality": quality})
    found = notes(replace(study, trials=(first, *study.trials[1:])))
    assert any("repeat" in note or "red" in note for note in found)
    assert not any("\x1b" in note for note in found)


def test_several_flattered_settings_are_one_note_and_are_marked_in_table_and_figure(
    study: StoredRun, tmp_path: Path
) -> None:
    pair = study.run.pairs[0].name
    quality = TextQuality(texts=32, seconds=1.0, metrics={}, flattered=Reason(code="x", message="m"))
    cold = {t.key for t in study.trials if t.cell.side != "ar" and t.cell.length == 16 and t.cell.batch == 1}
    trials = tuple(t.model_copy(update={"quality": quality}) if t.key in cold else t for t in study.trials)
    steps = sorted({m.cell.steps for m in study.measurements if m.cell.steps})
    run = replace(judged(study, {None: 0.9, **{str(t): 0.5 for t in steps}}), trials=trials)
    (note,) = [note for note in notes(run) if "flatters" in note]
    assert f"{len(cold)} settings" in note
    assert all(key in note for key in cold)
    table = results(run, pair)
    marked = [row.label for group in table.groups for row in group.rows if row.label.endswith(" *")]
    assert len(marked) == len(cold)
    assert any(text.startswith("* likelihood flatters") for text in table.notes)
    with style():
        figure = pareto_figure(Study(run), tmp_path)
    assert " *" in figure.alt
    assert "* marks texts whose words have collapsed" in figure.caption
