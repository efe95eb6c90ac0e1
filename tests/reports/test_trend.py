"""The trend: groups never joined, steps raw and normalised, what changed there, and how it is shown."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from dlmbench import InputError
from dlmbench.reports.history import read_history
from dlmbench.reports.trend import Group, Series, Trend, make_trend
from dlmbench.reports.trend_document import trend_document
from dlmbench.reports.trend_page import write_trend
from dlmbench.reports.trend_rows import presence, series_lines, sparkline, step_lines
from dlmbench.reports.trend_terminal import show_trend

HOSTILE = "<script>alert(1)</script>[red]\x1b[2J\u202e&"


def trend_of(folder: Path, metric: str = "throughput_tok_s") -> Trend:
    return make_trend(read_history(folder), metric)


def only(folder: Path, metric: str = "throughput_tok_s") -> tuple[Group, Series]:
    (group,) = trend_of(folder, metric).groups
    (series,) = group.series
    return group, series


def write_all(histories: ModuleType, folder: Path, values: list[float], **changes: Any) -> None:
    """A run for each value; `changes` are functions of the run's index."""
    for i, value in enumerate(values):
        histories.write(folder, i, {histories.AR: value}, **{name: of(i) for name, of in changes.items()})


def shown(trend: Trend, width: int) -> str:
    out = io.StringIO()
    show_trend(trend, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_suites_and_devices_are_never_joined(histories: ModuleType, tmp_path: Path) -> None:
    for i in range(2):
        histories.write(tmp_path, i, {histories.AR: 1.0})
        histories.write(tmp_path, 10 + i, {histories.AR: 1.0}, suite="other")
        histories.write(tmp_path, 20 + i, {histories.AR: 1.0}, device_name="Other CPU")
    groups = trend_of(tmp_path).groups
    assert [(g.suite, g.device_name, len(g.runs)) for g in groups] == [
        ("ci", "Example CPU", 2),
        ("other", "Example CPU", 2),
        ("ci", "Other CPU", 2),
    ]
    assert all(len(series.points) == 2 for group in groups for series in group.series)


@pytest.mark.parametrize(("metric", "third"), [("throughput_tok_s", 100 / 2), ("latency_s", 100 * 2)])
def test_a_faster_device_is_divided_out_by_hand(
    histories: ModuleType, tmp_path: Path, metric: str, third: float
) -> None:
    # Rates 1, 1, 2: the middle one is 1; at twice the rate a throughput halves and a time doubles.
    rates = [1e12, 1e12, 2e12]
    for i, rate in enumerate(rates):
        histories.write(tmp_path, i, {histories.AR: 100.0}, rate=rate, metric=metric)
    _, series = only(tmp_path, metric)
    assert [point.normalised for point in series.points] == pytest.approx([100.0, 100.0, third])


def test_a_counter_and_another_kernel_are_not_normalised(histories: ModuleType, tmp_path: Path) -> None:
    for i in range(2):
        histories.write(tmp_path, i, {histories.AR: 16.0}, metric="nfe")
    assert only(tmp_path, "nfe")[1].not_normalised == "no clock enters it"
    other = histories.write(tmp_path / "more", 2, {histories.AR: 16.0})
    text = (other / "trials.jsonl").read_text()
    (other / "trials.jsonl").write_text(text.replace('"matrix":1024', '"matrix":2048'))
    histories.write(tmp_path / "more", 1, {histories.AR: 16.0})
    _, series = only(tmp_path / "more")
    assert series.not_normalised == "its runs have no calibration of one kind beside them"
    assert [point.normalised for point in series.points] == [None, None]


@pytest.mark.parametrize(
    ("code", "device", "seen", "change"),
    [(0.9, 1.0, "both", -0.1), (1.0, 0.9, "as measured", -0.1), (0.9, 1 / 0.9, "normalised", -0.1)],
)
def test_a_step_of_the_code_and_one_of_the_device_are_told_apart(
    histories: ModuleType, tmp_path: Path, code: float, device: float, seen: str, change: float
) -> None:
    values = histories.noisy([1000.0] * 10 + [1000.0 * code * device] * 8, 0.005)
    write_all(
        histories,
        tmp_path,
        values,
        rate=lambda i: 1e12 if i < 10 else 1e12 * device,
        torch=lambda i: "2.12.0" if i < 10 else "2.13.0",
        threads=lambda i: 3 if i < 5 else 2,
    )
    group, series = only(tmp_path)
    (shift,) = series.shifts
    assert (shift.previous, shift.run, shift.seen, shift.worse) == (9, 10, seen, True)
    assert shift.change == pytest.approx(change, abs=0.01)
    assert shift.low < shift.change < shift.high
    assert [(d.name, d.values) for d in shift.differences] == [("torch", ("2.12.0", "2.13.0"))]
    assert [(m.run, [d.name for d in m.differences]) for m in group.moved] == [(5, ["threads"]), (10, ["torch"])]


def test_the_direction_of_the_metric_says_what_is_worse(histories: ModuleType, tmp_path: Path) -> None:
    for metric, worse in (("throughput_tok_s", False), ("latency_s", True), ("output_tokens", None)):
        for i in range(12):
            histories.write(tmp_path / metric, i, {histories.AR: 100.0 if i < 6 else 150.0}, metric=metric)
        (shift,) = only(tmp_path / metric, metric)[1].shifts
        assert shift.worse is worse


def test_cells_that_appear_fail_and_disappear_are_followed(histories: ModuleType, tmp_path: Path) -> None:
    for i in range(6):
        values = {histories.AR: 1.0}
        if 1 <= i <= 4:
            values[histories.MDLM] = None if i == 2 else 2.0
        histories.write(tmp_path, i, values)
    (group,) = trend_of(tmp_path).groups
    _, mdlm = group.series
    assert [point.run for point in mdlm.points] == [1, 3, 4]
    assert presence(group, mdlm) == [
        "from 2026-01-06 03:00 on",
        "none since 2026-01-09 03:00 (not in this run)",
        "none in 2026-01-07 03:00 (failed: out of memory: wanted 9.1 GB)",
    ]
    assert sparkline(mdlm, 6, 10) == "·▁·▁▁·"
    assert sparkline(mdlm, 6, 3) == "▁▁·"


def test_an_interval_without_a_level_is_marked(histories: ModuleType, tmp_path: Path) -> None:
    path = histories.write(tmp_path, 0, {histories.AR: 100.0})
    text = (path / "measurements.jsonl").read_text()
    (path / "measurements.jsonl").write_text(text.replace('"level":0.95', '"level":null'))
    assert "100 tok/s ~[99, 101]" in shown(trend_of(tmp_path), 80)


def test_one_run_and_an_unknown_metric(histories: ModuleType, tmp_path: Path) -> None:
    histories.write(tmp_path, 0, {histories.AR: 1.0})
    text = shown(trend_of(tmp_path), 80)
    assert "1 run, 2026-01-05 03:00; a trend needs a second one" in text
    assert "Steps are sought in cells with 8 runs or more" in text
    with pytest.raises(InputError, match="metric 'speed' is unknown"):
        trend_of(tmp_path, "speed")
    assert "No cell has a valid TTFT." in shown(trend_of(tmp_path, "ttft_s"), 80)


@pytest.fixture
def story(histories: ModuleType, tmp_path: Path) -> Path:
    """Eighteen runs: a step of the code at the tenth, with a new torch; a cell that fails once; a torn run."""
    folder = tmp_path / "runs"
    ar, mdlm = (histories.noisy([x] * 10 + [0.9 * x] * 8, 0.005, seed) for x, seed in ((1000.0, 1), (2500.0, 2)))
    for i in range(18):
        values = {histories.AR: ar[i], histories.MDLM: None if i == 4 else mdlm[i]}
        histories.write(folder, i, values, torch="2.12.0" if i < 10 else "2.13.0")
    broken = histories.write(folder, 30, {histories.AR: 1.0})
    (broken / "run.json").write_text("{")
    return folder


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_number_whole(story: Path, width: int) -> None:
    trend = trend_of(story)
    text = shown(trend, width)
    assert max(map(cell_len, text.split("\n"))) <= width
    (group,) = trend.groups
    for line in series_lines(trend, group):
        for words in (line.latest, line.interval, line.change, line.normalised):
            assert words in text
    assert [line.commit for line in step_lines(group)] == ["000000000009 → 00000000000a"] * 2
    for line in step_lines(group):
        assert line.change in text
    assert "changed there too: torch 2.12.0 → 2.13.0" in text
    assert "cannot be read as JSON" in " ".join(text.split())


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes that load or run something, visible text, rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.loads: list[str] = []
        self.rows: list[int] = []
        self.ends: list[list[int]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.loads += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "srcset") and not (v or "").startswith("#")]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag == "table":
            self.ends.append([])
        if tag == "tr":
            self.ends[-1].append(0)
        if tag in ("td", "th"):
            self.ends[-1][-1] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_self_contained_and_says_it_all(story: Path, tmp_path: Path) -> None:
    files = write_trend(trend_of(story), tmp_path / "out", ("dlmbench", "trend", "runs"))
    assert [path.name for path in files] == ["trend-1.png", "trend.html"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    text = files[1].read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert page.scripts == 1
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert all(len(set(rows)) == 1 for rows in page.ends)
    assert text.count("<svg") == 2
    for words in ("2 steps in 2 of 2 cells", "torch 2.12.0 → 2.13.0", "both", "worse", "dlmbench trend runs"):
        assert words in page.text
    assert "out of memory: wanted 9.1 GB" in page.text


def test_hostile_text_is_inert(histories: ModuleType, tmp_path: Path) -> None:
    cell = histories.AR.model_copy(update={"pair": HOSTILE, "generator": HOSTILE})
    for i in range(2):
        histories.write(tmp_path / "runs", i, {cell: 1.0}, device_name=HOSTILE, torch=HOSTILE + str(i), commit=HOSTILE)
    trend = trend_of(tmp_path / "runs")
    assert not set(shown(trend, 200)) & set("\x1b\u202e")
    text = write_trend(trend, tmp_path / "out", ("dlmbench", HOSTILE))[-1].read_text(encoding="utf-8")
    assert not set(text) & set("\x1b\u202e")
    assert Page(text).scripts == 1
    assert "<script>alert" not in text


def test_the_document_is_plain_json(story: Path) -> None:
    document = trend_document(trend_of(story))
    text = json.dumps(document, allow_nan=False)
    (group,) = json.loads(text)["groups"]
    assert len(group["runs"]) == 18
    assert [step["run"] for cell in group["cells"] for step in cell["steps"]] == [10, 10]
    assert group["cells"][1]["gaps"] == [{"run": 4, "why": "failed: out of memory: wanted 9.1 GB"}]
