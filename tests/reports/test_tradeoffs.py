"""The table of claims: every verdict follows from the numbers beside it, and is withheld where they are missing."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dlmbench.profiles.record import CertificateRow, Measurement, Reason, TextQuality, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.profiles.studies import InfillStudy, LikelihoodStudy, Studies
from dlmbench.reports.figures import write_figures
from dlmbench.reports.html import render
from dlmbench.reports.markdown import write_summary
from dlmbench.reports.study import Study
from dlmbench.reports.terminal import show_run
from dlmbench.reports.tradeoffs import Tradeoff, tradeoffs

ROWS = (
    "generation direction", "steps for L tokens", "work of a step", "compute utilisation", "output quality",
    "streaming", "controllability", "long-sequence throughput",
)  # fmt: skip


def share(value: float) -> Value:
    return Value(value=value, low=value - 0.03, high=value + 0.03, n=256, level=0.95)


def judged(stored: StoredRun, **more: dict[str | None, float]) -> StoredRun:
    """The run with values by metric and T (None: AR) in all its measured cells; validity falls with T unless given."""
    falling = {None: 0.9, "16": 0.88, "64": 0.9, "256": 0.9, "8": 0.5, "4": 0.2}
    values = {"quality.validity": falling} | {name.replace("__", "."): by for name, by in more.items()}

    def told(m: Measurement) -> Measurement:
        if m.status != "ok":
            return m
        at = None if m.cell.steps is None else str(m.cell.steps)
        found = {name: share(by[at]) for name, by in values.items() if at in by}
        return m.model_copy(update={"metrics": {**m.metrics, **found}})

    return replace(stored, measurements=tuple(told(m) for m in stored.measurements))


def rows(stored: StoredRun) -> dict[str, Tradeoff]:
    return {row.aspect: row for row in tradeoffs(Study(stored), "small")}


def studies(diffusion: float = 0.8, best: float = 0.4) -> Studies:
    return Studies(
        pair="small",
        infill=InfillStudy(
            texts=96, left=24, gap=8, right=16,
            validity={"diffusion": share(diffusion), "ar": share(0.1), "ar, best of 8": share(best)},
        ),
        likelihood=LikelihoodStudy(
            texts=128, length=128, nats={"ar": share(1.8), "diffusion": share(2.1)},
            exact={"ar": True, "diffusion": False}, monte_carlo_error={"ar": 0.0, "diffusion": 0.006}, source=1.77,
        ),
    )  # fmt: skip


def test_a_run_without_judged_texts_has_no_table(study: StoredRun) -> None:
    assert tradeoffs(Study(study), "small") == ()


def test_every_row_has_a_claim_numbers_and_a_verdict(study: StoredRun) -> None:
    found = rows(judged(study))
    assert tuple(found) == ROWS
    for row in found.values():
        assert row.claim
        assert row.reason
        assert (row.measured == "—") == (row.verdict == "not measured")
    assert found["controllability"].verdict == "not measured"
    assert "dlmbench run lesson" in found["controllability"].reason


def test_direction_is_read_off_the_commits(study: StoredRun) -> None:
    row = rows(judged(study))["generation direction"]
    assert "written first in 100 % of pairs under AR" in row.measured


def certified(stored: StoredRun) -> StoredRun:
    """The run with a certificate that states the AR network's shape, attention left out: 2 FLOPs a parameter."""
    stated = {
        "total parameters": 1100, "active parameters": 1100, "non-embedding parameters": 1000, "hidden size": 10,
        "vocabulary": 10, "layers": 0, "query heads": 1, "head size": 1,
    }  # fmt: skip
    rows = tuple(
        CertificateRow(quantity=name, unit="1", ar=number, diffusion=None, difference_percent=None, verdict="differs")
        for name, number in stated.items()
    )
    pairs = tuple(pair.model_copy(update={"certificate": rows}) for pair in stored.run.pairs)
    return replace(stored, run=stored.run.model_copy(update={"pairs": pairs}))


@pytest.mark.parametrize(
    ("per_position", "fed", "verdict", "reason"),
    [
        (2200, 1.0, "holds", "same products"),  # 2 x 1100 parameters at every position
        (2000, 1.0, "holds", "same products"),
        (1700, 1.0, "in part", "logits only where tokens are chosen"),
        (2600, 1.0, "in part", "attend to all"),
        (4400, 2.0, "in part", "feeds 96 positions"),
        (550, 0.25, "does not hold", "feeds 12 positions"),
    ],
)
def test_a_step_is_held_against_a_training_forward(
    study: StoredRun, per_position: float, fed: float, verdict: str, reason: str
) -> None:
    """T nearest L/4 of L = 16 is 8: eight forwards over 32 + 16 positions."""

    def told(m: Measurement) -> Measurement:
        work = {"nfe": 8.0, "model_flops": 8 * 48 * per_position, "forward_tokens": 8 * 48 * fed}
        work["arithmetic_intensity"] = 5.0
        return m.model_copy(update={"metrics": {**m.metrics, **{name: Value(value=x) for name, x in work.items()}}})

    run = certified(judged(study))
    row = rows(replace(run, measurements=tuple(map(told, run.measurements))))["work of a step"]
    assert row.verdict == verdict
    assert reason in row.reason
    assert f"{per_position / 2200:.2g} times a training forward of the AR network over the 48 positions" in row.measured
    # The certificate of an older run may not state the shape.
    assert rows(judged(study))["work of a step"].verdict == "not measured"


@pytest.mark.parametrize(
    ("ar", "diffusion", "verdict"), [(0.15, 0.75, "holds"), (0.15, 0.4, "in part"), (0.5, 0.3, "does not hold")]
)
def test_utilisation_is_held_against_the_claimed_numbers(
    study: StoredRun, ar: float, diffusion: float, verdict: str
) -> None:
    steps: dict[str | None, float] = dict.fromkeys(("4", "8", "16", "64", "256"), diffusion)
    assert rows(judged(study, mfu={None: ar, **steps}))["compute utilisation"].verdict == verdict


def enough(stored: StoredRun, steps: float | None) -> StoredRun:
    """The run with `steps` shown to be as good as AR."""

    def told(m: Measurement) -> Measurement:
        value = Value(value=steps, why=None if steps else "none shown")
        return m.model_copy(update={"metrics": {**m.metrics, "steps_at_equal_quality": value}})

    return replace(stored, measurements=tuple(told(m) if m.cell.side == "ar" else m for m in stored.measurements))


def test_quality_must_fall_by_more_than_the_intervals(study: StoredRun) -> None:
    def row(stored: StoredRun) -> Tradeoff:
        return rows(stored)["output quality"]

    assert row(enough(judged(study), 16)).verdict == "holds"
    # That intervals overlap shows no equality.
    undecided = row(judged(study))
    assert (undecided.verdict, "not shown to reach AR" in undecided.reason) == ("in part", True)
    below: dict[str | None, float] = {None: 0.9, "16": 0.6, "64": 0.6, "256": 0.6, "8": 0.3, "4": 0.2}
    stays = row(judged(study, quality__validity=below))
    assert (stays.verdict, "stay below AR" in stays.reason) == ("in part", True)
    even: dict[str | None, float] = dict.fromkeys((None, "4", "8", "16", "64", "256"), 0.9)
    assert row(judged(study, quality__validity=even)).verdict == "does not hold"
    low: dict[str | None, float] = {**dict.fromkeys(("4", "8", "16", "64", "256"), 0.3), None: 0.95}
    flat = row(judged(study, quality__validity=low))
    assert (flat.verdict, "worse than AR's" in flat.reason) == ("does not hold", True)


def test_flattered_texts_are_no_evidence_of_quality(study: StoredRun) -> None:
    run = judged(study)
    shape = Study(run).shapes[0]
    most = Study(run).diffusion(shape)[0]
    why = TextQuality(texts=9, seconds=1.0, metrics={}, flattered=Reason(code="collapsed", message="few words"))
    trials = tuple(t.model_copy(update={"quality": why}) if t.key == most.measurement.key else t for t in run.trials)
    row = rows(replace(run, trials=trials))["output quality"]
    assert f"at T = {most.steps}" not in row.measured


def test_control_holds_where_diffusion_fills_better_than_the_best_of_several(study: StoredRun) -> None:
    run = judged(study)
    found = rows(replace(run, studies={"small": studies()}))["controllability"]
    assert found.verdict == "holds"
    assert "1.800 [1.770, 1.830] nats a token, exact" in found.measured
    assert rows(replace(run, studies={"small": studies(best=0.8)}))["controllability"].verdict == "in part"
    lost = rows(replace(run, studies={"small": studies(diffusion=0.02, best=0.94)}))["controllability"]
    assert (lost.verdict, "fills a gap more often" in lost.reason) == ("does not hold", True)
    why = Studies(pair="small", why={"infill": "no network of that kind"})
    missing = rows(replace(run, studies={"small": why}))["controllability"]
    assert (missing.verdict, missing.reason) == ("not measured", "no network of that kind")


def test_long_outputs_need_equal_quality(study: StoredRun) -> None:
    run = judged(study)
    row = rows(run)["long-sequence throughput"]
    assert row.measured.startswith("at L = 256")
    assert row.verdict in ("in part", "does not hold")

    def equal(m: Measurement) -> Measurement:
        value = Value(value=1.6, low=1.4, high=1.8, n=5, level=0.95)
        return m.model_copy(update={"metrics": {**m.metrics, "speedup_at_equal_quality": value}})

    run = replace(run, measurements=tuple(equal(m) if m.cell.side == "ar" else m for m in run.measurements))
    assert rows(run)["long-sequence throughput"].verdict == "holds"


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_is_on_every_surface(study: StoredRun, tmp_path: Path, width: int) -> None:
    run = replace(judged(study), studies={"small": studies()})
    page = render(run, write_figures(run, tmp_path))
    write_summary(run, tmp_path / "summary.md")
    console = Console(file=io.StringIO(), width=width)
    show_run(run, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text[text.index("claims, and what") :].splitlines())) <= width
    for shown in (page, (tmp_path / "summary.md").read_text(), text):
        for aspect in ROWS:
            assert aspect in shown
        assert "holds" in shown
