"""A load's tables, Markdown, page and terminal, on an invented load with hostile names in every place."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dlmbench.profiles.record import CertificateRow, Reason
from dlmbench.profiles.serving.record import (
    EndpointRecord,
    Level,
    Load,
    LoadRun,
    LoadSettings,
    Offered,
    Prompts,
    Ratio,
    RequestRecord,
    Saturation,
    Tokens,
    Window,
)
from dlmbench.profiles.serving.store import StoredLoad, append_requests, read_load, write_load
from dlmbench.profiles.serving.summary import level_metrics, ratios
from dlmbench.reports.load_markdown import load_summary
from dlmbench.reports.load_page import write_load_files
from dlmbench.reports.load_rows import notes, tables
from dlmbench.reports.load_terminal import print_load

HOSTILE = "<script>alert(1)</script>|`*_[red]x[/red]\x1b[31m\u202e"


def requests(window: int, blocks: int, failed: int, name: str) -> list[RequestRecord]:
    found = []
    for number in range(12):
        at = tuple((0.1 * (block + 1) + 0.001 * number, 16 * (block + 1) // blocks) for block in range(blocks))
        given: dict[str, Any] = {
            "window": window, "number": number, "part": "counted", "status": "ok", "due_s": 0.2 * number,
            "sent_s": 0.2 * number, "closed_s": at[-1][0], "tokens": 16, "output_tokens": 16, "visible_s": at[0][0],
            "chunks": at,
            "usage_output_tokens": 16, "notes": (name,) if number == 3 else (),
        }  # fmt: skip
        if number < failed:
            reason = Reason(code="http_500", message=name)
            given |= {"status": "failed", "reason": reason, "chunks": (), "tokens": None, "visible_s": None}
        found.append(RequestRecord(**given))
    return found


def invented(folder: Path, name: str = "m") -> StoredLoad:
    """Two servers, two loads, five rounds; some requests fail."""
    endpoints = (
        EndpointRecord(url="http://127.0.0.1:1/v1", model=name, side="ar", style="chat", stream=True),
        EndpointRecord(url="http://127.0.0.1:2/v1", model=name, side="diffusion", style="chat", stream=True),
    )
    loads = (Load(kind="closed", value=1), Load(kind="closed", value=8))
    windows, levels, found = [], [], {}
    for round_number in range(5):
        for load in loads:
            for endpoint in (0, 1):
                number = len(windows)
                began = "2026-11-28T10:00:00"
                windows.append(
                    Window(
                        number=number,
                        round=round_number,
                        endpoint=endpoint,
                        load=load,
                        began=began,
                        seconds=3.0 + 0.1 * round_number,
                        stopped_by="requests",
                    )
                )
                found[number] = requests(number, (16, 4)[endpoint], 2 if load.value == 8 else 0, name)
    for load in loads:
        for endpoint in (0, 1):
            own = [w for w in windows if (w.load, w.endpoint) == (load, endpoint)]
            levels.append(
                Level(
                    endpoint=endpoint,
                    load=load,
                    windows=5,
                    requests=60,
                    metrics=level_metrics(own, found, {"ttft": 0.15}, 1e-3, None),
                    faults={"http_500": 10} if load.value == 8 else {},
                    notes=(name,),
                    usage_differs=name,
                )
            )
    pairs = [(found[0], 3.0, found[1], 3.0)] * 5
    run = LoadRun(
        id="x", created="2026-11-28T10:00:00", finished="2026-11-28T10:01:00", duration_s=60.0,
        command=("dlmbench", "load", name), endpoints=endpoints, tokenizer=Tokens(name=name, sha256="a"),
        prompts=Prompts(source=name, sha256="b", tokens=8, form="text"),
        settings=LoadSettings(
            output_tokens=16, requests=12, duration_s=60.0, rounds=5, timeout_s=120.0, together_s=1e-3,
            connections="kept and used again",
        ),
        objectives={"ttft": 0.15},
        certificate=(CertificateRow(
            quantity="model", unit="", ar=name, diffusion=name, difference_percent=None, verdict="same"),),
        unknown=("hardware",), windows=tuple(windows), levels=tuple(levels),
        ratios=(Ratio(load=loads[0], metrics=ratios(pairs, 1e-3)),),
        saturation=Saturation(
            kind="closed", levels=(Offered(value=1, requests_s=3.0),), at=1, rule=name, ended=name
        ),
        fault_meanings={"http_500": "the server answered 500 Internal Server Error"},
        environment={"cpu": {"model": name}}, warnings=(name,), dlmbench_version="0.1.0",
    )  # fmt: skip
    write_load(folder, run)
    for window in windows:
        append_requests(folder, found[window.number])
    return read_load(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> StoredLoad:
    return invented(tmp_path_factory.mktemp("load"), HOSTILE)


def test_tables_say_what_was_measured(tmp_path: Path) -> None:
    stored = invented(tmp_path)
    found = {table.title: table for table in tables(stored.run)}
    assert list(found) == [
        "Levels", "diffusion over AR", "Quantiles", "Time to k tokens", "Portions", "What other load tools would say",
        "Failures and the client", "Saturation", "Requests that failed", "What is known of both servers",
    ]  # fmt: skip
    levels = found["Levels"]
    assert [row[0] for row in levels.rows] == [
        "AR, concurrency=1", "diffusion, concurrency=1", "AR, concurrency=8", "diffusion, concurrency=8"
    ]  # fmt: skip
    assert levels.rows[2][1] == "50 + 10 failed"
    assert {"goodput", "good"} <= set(levels.headers)
    # 4 blocks: (406 - 106 ms) / 15 against 406 ms / 16.
    (peers,) = [row for row in found["What other load tools would say"].rows if row[0] == "diffusion, concurrency=1"]
    assert peers[2] == "20.0 ms (-21 %)"
    assert found["Requests that failed"].rows[0] == (
        "AR, concurrency=8", "10", "16.7 %", "http_500", "the server answered 500 Internal Server Error"
    )  # fmt: skip
    assert all(len(row) == len(table.headers) for table in found.values() for row in table.rows)


def test_a_quantile_without_an_interval_is_told(tmp_path: Path) -> None:
    said = "p99 has no interval: 60 requests: an interval of p99 needs 368"
    assert any(said in note for note in notes(invented(tmp_path).run))


def test_hostile_names_stay_text(hostile: StoredLoad) -> None:
    files = write_load_files(hostile)
    page = (hostile.path / "report.html").read_text()
    body = page[page.index("<body>") :]
    assert "<script>alert" not in body
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert len(re.findall(r"<script>", page)) == 1
    text = load_summary(hostile.run).partition("```")[0]  # in the fence stands the command, as it was
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\x1b" not in text
    assert [path.name for path in files] == [
        "load_tradeoff.png", "load_time_to_k.png", "load_timeline.png", "report.html", "summary.md"
    ]  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in files)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_keeps_numbers_whole(hostile: StoredLoad, width: int) -> None:
    out = io.StringIO()
    print_load(hostile.run, Console(file=out, width=width))
    text = out.getvalue()
    assert "\x1b[31m" not in text
    assert "…" not in text
    assert "diffusion over AR" in text


@pytest.mark.parametrize("width", [80, 120])
def test_tables_that_are_too_wide_become_several(tmp_path: Path, width: int) -> None:
    out = io.StringIO()
    print_load(invented(tmp_path).run, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for header in ("throughput", "goodput", "tokens", "latency"):
        assert any(header in line for line in lines)


def test_a_load_that_has_measured_nothing_has_a_page_too(tmp_path: Path) -> None:
    stored = invented(tmp_path)
    empty = stored.run.model_copy(update={"levels": (), "windows": (), "ratios": (), "saturation": None})
    write_load(tmp_path, empty)
    files = write_load_files(read_load(tmp_path))
    assert [path.name for path in files] == ["report.html", "summary.md"]
    assert "No window has ended yet" in files[0].read_text()


def test_what_was_cut_off_says_so_and_lengths_that_differ_are_told(tmp_path: Path) -> None:
    run = invented(tmp_path).run
    assert not any("cut off" in note for note in notes(run))
    assert any("was cut off" in note for note in notes(run.model_copy(update={"finished": None})))
    longer = run.levels[1].metrics["serving.output_tokens[p50]"].model_copy(update={"value": 64.0})
    level = run.levels[1].model_copy(update={"metrics": run.levels[1].metrics | {"serving.output_tokens[p50]": longer}})
    changed = run.model_copy(update={"levels": (run.levels[0], level, *run.levels[2:])})
    assert any("differ in length, from 16 to 64 tokens" in note for note in notes(changed))


def test_the_same_load_gives_the_same_page(tmp_path: Path) -> None:
    stored = invented(tmp_path)
    write_load_files(stored)
    first = (tmp_path / "report.html").read_bytes()
    write_load_files(stored)
    assert (tmp_path / "report.html").read_bytes() == first
