"""What the figures show is what was measured; what a run lacks is said, not drawn."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from dlmbench.profiles.record import Commit, Measurement, Timeline, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.fig_crossover import crossover_figure
from dlmbench.reports.fig_sweeps import series_over_length
from dlmbench.reports.fig_time_split import shares
from dlmbench.reports.fig_time_to_k import curve
from dlmbench.reports.fig_timeline import Written, draw_forwards, draw_tokens, timeline_figure, written
from dlmbench.reports.figures import write_figures
from dlmbench.reports.palette import DARK, LIGHT
from dlmbench.reports.plotting import Figure, Sheet, style, themed
from dlmbench.reports.study import Study, spread

UNRECORDED = ("pareto", "sentence", "tasks", "power", "energy", "kernels", "flame", "memory")
Synthetic = Callable[..., StoredRun]
HOSTILE = "<script>alert(1)</script></svg>\"'$\\frac$ \x1b[31mred\u202e"


@pytest.fixture(scope="module")
def drawn(synthetic_run: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Figure], Path]:
    folder = tmp_path_factory.mktemp("figures")
    return write_figures(synthetic_run(folder / "run", blocks=(1, 4, 16)), folder), folder


def test_every_figure_is_a_png_and_svg_with_words(drawn: tuple[list[Figure], Path]) -> None:
    figures, folder = drawn
    assert {f.name for f in figures} == {
        "timeline", "wall_clock", "over_steps", "over_length", "over_batch", "blocks", "crossover", "time_to_k",
        "time_split", "roofline", "utilisation", *UNRECORDED,
    }  # fmt: skip
    for figure in figures:
        if figure.name in UNRECORDED:  # of judged texts, studies and hardware: see their own tests
            assert figure.skipped
            continue
        assert figure.skipped is None
        assert (folder / f"{figure.name}.png").read_bytes().startswith(b"\x89PNG")
        assert figure.sentence.endswith(".")
        assert figure.alt
        for fact in ("Example CPU, 4 cores", "float32", "engine eager", "n = ", "samples a cell"):
            assert fact in figure.caption, figure.name


def test_captions_claim_confidence_only_for_intervals_that_have_a_level(drawn: tuple[list[Figure], Path]) -> None:
    captions = {figure.name: figure.caption for figure in drawn[0]}
    # L = 16 at batch 8 ran in two processes; time to k is drawn at batch 1, which ran in five.
    assert "no confidence level" in captions["wall_clock"]
    assert captions["time_to_k"].endswith("Intervals: 95 % confidence over processes.")


def test_the_page_can_repaint_every_colour(drawn: tuple[list[Figure], Path]) -> None:
    for figure in drawn[0]:
        assert "var(--c-" in figure.svg or figure.skipped
        assert not re.search(r"#[0-9a-f]{6}\b", figure.svg), figure.name
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT), "two roles of one colour could not be told apart"


def test_panels_of_all_figures_share_a_page_without_sharing_an_id(drawn: tuple[list[Figure], Path]) -> None:
    ids = re.findall(r'\bid="([^"]+)"', "".join(figure.svg for figure in drawn[0]))
    assert len(ids) == len(set(ids))
    for used in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', "".join(figure.svg for figure in drawn[0])):
        assert "".join(used) in ids


def test_drawing_leaves_matplotlibs_settings_alone(study: StoredRun, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write_figures(study, tmp_path)
    assert dict(mpl.rcParams) == before


def timeline(commits: tuple[Commit, ...], length: int, latency: float) -> Timeline:
    return Timeline(sample_order=0, latency_s=latency, length=length, forwards=(), commits=commits)


def test_the_staircase_is_the_commits() -> None:
    commits = tuple(Commit(at_s=float(p + 1), step=p, positions=(p,), tokens=(7,)) for p in range(3))
    assert written(timeline(commits, 3, 3.5)) == (
        Written(0, 1.0, 3.5, 0, True),
        Written(1, 2.0, 3.5, 1, True),
        Written(2, 3.0, 3.5, 2, True),
    )


def test_a_token_that_is_rewritten_stands_until_its_replacement() -> None:
    commits = (
        Commit(at_s=1.0, step=0, positions=(0, 1), tokens=(5, 6), final=False),
        Commit(at_s=2.0, step=1, positions=(1,), tokens=(9,)),
    )
    assert written(timeline(commits, 2, 2.0)) == (
        Written(0, 1.0, 2.0, 0, False),
        Written(1, 1.0, 2.0, 0, False),
        Written(1, 2.0, 2.0, 1, True),
    )


def test_drawn_bars_start_where_the_record_says_that_tokens_were_written(study: StoredRun) -> None:
    found = next(t.timeline for t in study.trials if t.timeline and t.cell.steps == 4)
    expected = {(commit.at_s, position) for commit in found.commits for position in commit.positions}
    with style():
        sheet = Sheet(1, 1)
        axes, strip = sheet.axes(0), sheet.axes(0)
        draw_tokens(axes, found, "diffusion")
        draw_forwards(strip, found, "diffusion", found.latency_s)
    corners = [path.vertices for collection in axes.collections for path in collection.get_paths()]
    bars = {(float(c[0][0]), round(float(c[0][1]) + 0.5)) for c in corners}
    assert bars == expected
    assert len(bars) == 16
    starts = sorted(float(path.vertices[0][0]) for c in strip.collections for path in c.get_paths())
    assert starts == sorted(forward.begin_s for forward in found.forwards)
    assert len(starts) == 4


def test_shares_of_a_cell_add_up_to_its_latency(study: StoredRun) -> None:
    index = Study(study)
    for shape in index.shapes:
        for point in index.points(shape):
            found = shares(index, point)
            assert len(found) == 4
            assert sum(found) == pytest.approx(1.0, abs=1e-9)


def test_the_fastest_engine_of_a_side_is_the_one_shown(study: StoredRun) -> None:
    slow = next(m for m in study.measurements if m.cell.side == "ar")
    half = Value(value=(slow.metrics["latency_s"].value or 0) / 2)
    fast_cell = slow.cell.model_copy(update={"engine": "compile"})
    fast = Measurement(cell=fast_cell, key=fast_cell.key, status="ok", metrics={"latency_s": half})
    for order in ((slow, fast), (fast, slow)):
        point = Study(replace(study, measurements=order)).ar(slow.cell.shape)
        assert point is not None
        assert point.measurement.cell.engine == "compile"


def test_lines_over_length_follow_a_share_of_l_or_a_fixed_t(study: StoredRun) -> None:
    index = Study(study)
    lines = series_over_length(index, [s for s in index.shapes if s[3] == 1])
    # T was L, L/4 and 8 at L = 16, 64, 256. L/2 at 16, L/8 at 64 and L/32 at 256 are T = 8 once each, and L/4 at 64 is
    # T = 16 as at 16: only what returns at several lengths is a line.
    assert [line.name for line in lines] == ["AR", "T = L", "T = L/4", "T = 8"]
    assert [x for x, _ in lines[2].points] == [16.0, 64.0, 256.0]


def test_a_curve_without_stored_points_is_the_median_of_the_samples(study: StoredRun) -> None:
    m = next(m for m in study.measurements if m.cell.side == "ar")
    bare = m.model_copy(update={"metrics": {"latency_s": m.metrics["latency_s"]}})
    index = Study(replace(study, measurements=(bare,)))
    point = index.ar(m.cell.shape)
    assert point is not None
    found = curve(index, point)
    assert [k for k, _ in found] == [1, 2, 4, 8, 16]
    times = sorted(s.time_to_k_s["8"] for t in study.trials if t.key == m.key for s in t.samples)
    assert found[3][1].value == pytest.approx((times[9] + times[10]) / 2)  # 20 samples
    assert found[3][1].low is None


def test_a_null_crossover_is_told_with_its_reason(study: StoredRun, tmp_path: Path) -> None:
    with style():
        figure = crossover_figure(Study(study), tmp_path)
    assert "No T* for L = 16 at batch 8, L = 64 at batch 8: none: AR is faster at every T measured." in figure.caption


def only(study: StoredRun, **fields: int) -> StoredRun:
    kept = [m for m in study.measurements if all(getattr(m.cell, name) == v for name, v in fields.items())]
    return replace(study, measurements=tuple(kept))


def test_a_sweep_over_one_value_is_skipped_with_the_value(study: StoredRun, tmp_path: Path) -> None:
    figures = {f.name: f for f in write_figures(only(study, length=16, batch=1), tmp_path)}
    assert figures["over_length"].skipped == "A line over L needs two values at one shape; this run measured L = 16."
    assert figures["over_batch"].skipped == "A line over B needs two values at one shape; this run measured B = 1."
    assert figures["over_steps"].skipped is None
    assert not (tmp_path / "over_length.png").exists()


def test_a_run_without_timelines_curves_parts_or_crossovers_says_so(study: StoredRun, tmp_path: Path) -> None:
    bare = replace(
        study,
        trials=(),
        measurements=tuple(
            m.model_copy(update={"metrics": {k: v for k, v in m.metrics.items() if k == "latency_s"}})
            for m in study.measurements
            if m.status == "ok" and m.cell.length == 16
        ),
    )
    figures = {f.name: f for f in write_figures(bare, tmp_path)}
    for name in ("timeline", "crossover", "time_to_k", "time_split"):
        reason = figures[name].skipped
        assert reason is not None, name
        assert reason.startswith("No "), name
        assert figures[name].svg == ""
    assert figures["wall_clock"].skipped is None


def test_sides_measured_at_different_batches_make_points_and_no_claim(study: StoredRun, tmp_path: Path) -> None:
    kept = tuple(m for m in study.measurements if (m.cell.side == "ar") == (m.cell.batch == 1))
    figures = {f.name: f for f in write_figures(replace(study, measurements=kept), tmp_path)}
    assert figures["over_batch"].skipped is None
    assert figures["over_batch"].sentence.startswith("No line has two points")


def test_a_run_without_results_draws_nothing(study: StoredRun, tmp_path: Path) -> None:
    figures = write_figures(replace(study, measurements=(), trials=()), tmp_path)
    assert {f.skipped for f in figures} == {"No cell of this run has a valid result (yet)."}
    assert list(tmp_path.iterdir()) == []


def test_ar_alone_and_diffusion_alone_are_drawn(study: StoredRun, tmp_path: Path) -> None:
    for side in ("ar", "diffusion"):
        half = replace(study, measurements=tuple(m for m in study.measurements if m.cell.side == side))
        figures = {f.name: f for f in write_figures(half, tmp_path / side)}
        assert figures["wall_clock"].skipped is None
        assert figures["over_length"].skipped is None


def test_missing_intervals_and_levels_are_drawn_without_them(study: StoredRun, tmp_path: Path) -> None:
    point_only = tuple(
        m.model_copy(update={"metrics": {k: Value(value=v.value, why=v.why) for k, v in m.metrics.items()}})
        for m in study.measurements
    )
    figures = write_figures(replace(study, measurements=point_only), tmp_path)
    assert all(f.skipped is None for f in figures if f.name != "blocks" and f.name not in UNRECORDED)
    assert "No intervals were recorded." in next(f.caption for f in figures if f.name == "wall_clock")


def test_two_hostile_pairs_stay_text(synthetic_run: Synthetic, tmp_path: Path) -> None:
    first = synthetic_run(tmp_path / "a", pair=HOSTILE)
    second = synthetic_run(tmp_path / "b", pair="plain")
    both = replace(first, trials=first.trials + second.trials, measurements=first.measurements + second.measurements)
    with style():
        figure = timeline_figure(Study(both), tmp_path)
    assert "<script" not in figure.svg
    assert "&lt;script&gt;" in figure.svg
    assert figure.svg.count("</svg>") == figure.svg.count("<svg ")
    assert "\x1b" not in figure.svg
    assert "\u202e" not in figure.svg
    text = "".join(ElementTree.fromstring(f"<page>{figure.svg}</page>").itertext())
    assert text.count("<script>alert…: ") == 3, "three panels of the first pair carry its shortened name"


def test_with_several_pairs_a_sentence_says_whose_it_is(synthetic_run: Synthetic, tmp_path: Path) -> None:
    first, second = synthetic_run(tmp_path / "a", pair="big"), synthetic_run(tmp_path / "b")
    both = replace(first, trials=first.trials + second.trials, measurements=first.measurements + second.measurements)
    figures = {f.name: f for f in write_figures(both, tmp_path)}
    assert figures["wall_clock"].sentence.startswith("Pair big: For 16 tokens at batch 1, AR needs ")
    assert figures["over_steps"].sentence.startswith("Pair big: Against AR at L = 256, with T = 8 diffusion is ")


def test_what_a_full_figure_leaves_out_is_said(synthetic_run: Synthetic, tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / name, pair=name) for name in "abcde"]
    many = replace(
        runs[0],
        trials=tuple(t for run in runs for t in run.trials),
        measurements=tuple(m for run in runs for m in run.measurements),
    )
    with style():
        assert "1 more pair is left to the table." in timeline_figure(Study(many), tmp_path).caption


def test_dollar_signs_are_not_mathematics(synthetic_run: Synthetic, tmp_path: Path) -> None:
    dollars = synthetic_run(tmp_path / "a", pair="$x^2$")
    both = replace(dollars, measurements=dollars.measurements + synthetic_run(tmp_path / "b").measurements)
    with style():
        figure = timeline_figure(Study(both), tmp_path)
    assert "$x^2$: AR" in figure.svg


def test_a_themed_svg_has_no_metadata_and_no_url() -> None:
    document = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="0 0 1 1"><metadata>x</metadata><style>*{}</style><defs><path id="m"/></defs>'
        f'<use xlink:href="#m" style="fill: {LIGHT["ar"]}; stroke: #123456"/>'
        '<text style="font-family: X">a&lt;b</text></svg>'
    )
    assert themed(document, "p") == (
        '<svg viewBox="0 0 1 1" aria-hidden="true" focusable="false"><defs><path id="p-m" /></defs>'
        '<use href="#p-m" style="fill: var(--c-ar); stroke: #123456" /><text style="">a&lt;b</text></svg>'
    )


def test_spread_keeps_the_ends() -> None:
    assert spread([4, 1, 2, 3, 5], 3) == [1, 3, 5]
    assert spread([7, 7], 3) == [7]
    assert spread([1, 2, 3], 1) == [1]
