"""A load that was cut off goes on, and a suite's load is part of its run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench.serve.scripted import Schedule, Scripted
from dlmbench.models.endpoints.client import Client
from dlmbench.profiles.serving.store import StoredLoad, read_load, write_load
from dlmbench.profiles.store import read_run


@pytest.fixture
def url(serving: ModuleType) -> Iterator[str]:
    with serving.served(Scripted(Schedule(0.01, 0.0, 64))) as url:
        yield url


def cut(stored: StoredLoad, windows: int) -> None:
    """What is left when a load is killed: the next window's requests may be there already, the window is not."""
    run, environment = stored.run, {k: v for k, v in stored.run.environment.items() if k != "after"}
    unknown = {"finished": None, "saturation": None, "levels": (), "ratios": (), "environment": environment}
    unknown |= {"duration_s": 100.0}
    write_load(stored.path, run.model_copy(update=unknown | {"windows": run.windows[:windows]}))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of all requests, in order."""
    found: list[bytes] = []
    ask = Client.ask

    async def noted(self: Client, body: bytes) -> Any:
        found.append(body)
        return await ask(self, body)

    monkeypatch.setattr(Client, "ask", noted)
    return found


def small(*flags: object) -> tuple[object, ...]:
    return ("--requests", 3, "--warmup", 1, "--output-tokens", 8, "--prompt-tokens", 8, *flags)


@pytest.mark.parametrize("windows", [0, 3])
def test_a_load_goes_on_where_it_was_cut_off(
    command: Callable[..., Any], tmp_path: Path, url: str, sent: list[bytes], windows: int
) -> None:
    folder = tmp_path / "load"
    outcome = command(
        "load", url, *small("--rounds", 2, "--concurrency", "1,2", "--objective", "ttft=5", "--out", folder)
    )
    assert outcome.code == 0, outcome.err
    whole = read_load(folder)
    assert len(whole.run.windows) == 4
    cut(whole, windows)
    before = set(sent)
    sent.clear()
    outcome = command("load", "--resume", folder)
    assert outcome.code == 0, outcome.err
    again = read_load(folder)
    # What a server may have in its cache does not come again, not even what was open when the load was cut off.
    assert not before & set(sent)
    cut(again, windows)  # a second time
    before |= set(sent)
    sent.clear()
    assert command("load", "--resume", folder).code == 0
    assert not before & set(sent)
    again = read_load(folder)
    assert again.run.windows[:windows] == whole.run.windows[:windows]
    assert [(w.round, w.load) for w in again.run.windows] == [(w.round, w.load) for w in whole.run.windows]
    assert [(r.window, r.number) for r in again.requests] == [(r.window, r.number) for r in whole.requests]
    assert again.run.duration_s is not None
    assert again.run.duration_s > 100
    assert (again.run.id, again.run.created, again.run.command) == (whole.run.id, whole.run.created, whole.run.command)
    assert [level.requests for level in again.run.levels] == [6, 6]
    assert "goodput" in (folder / "summary.md").read_text()


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report is written: it takes longer than a load."""
    monkeypatch.setattr("dlmbench.bench.load.command.write_load_report", lambda _: [])


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("windows", [1, 2, 3])
def test_a_pair_goes_on_in_its_order(
    command: Callable[..., Any], tmp_path: Path, url: str, sent: list[bytes], windows: int
) -> None:
    folder = tmp_path / "load"
    outcome = command("load", url, url, *small("--rounds", 2, "--out", folder))
    assert outcome.code == 0, outcome.err
    assert len(set(sent)) == 8  # the same for both
    cut(read_load(folder), windows)
    before = set(sent)
    sent.clear()
    assert command("load", "--resume", folder).code == 0
    again = read_load(folder)
    assert [window.endpoint for window in again.run.windows] == [0, 1, 1, 0]
    assert not before & set(sent)
    assert again.run.ratios[0].metrics["serving.throughput_tok_s"].n == 2


@pytest.mark.usefixtures("unreported")
def test_a_sweep_goes_on(
    command: Callable[..., Any], tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlmbench.bench.load.session._MOST_LEVELS", 3)
    folder = tmp_path / "load"
    assert command("load", url, *small("--sweep", "--out", folder)).code == 0
    whole = read_load(folder)
    cut(whole, 2)
    assert command("load", "--resume", folder).code == 0
    again = read_load(folder)
    assert again.run.saturation is not None
    assert [level.value for level in again.run.saturation.levels] == [1, 2, 4]
    assert again.run.windows[:2] == whole.run.windows[:2]
    cut(again, 3)  # and a third time, on a machine that can hold less
    monkeypatch.setattr("dlmbench.bench.load.session._MOST_LEVELS", 2)
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "more windows than" in outcome.err) == (2, True)
    assert len(read_load(folder).run.windows) == 3


@pytest.mark.usefixtures("unreported")
def test_what_is_not_the_same_load_is_not_gone_on_with(command: Callable[..., Any], tmp_path: Path, url: str) -> None:
    folder = tmp_path / "load"
    assert command("load", url, *small("--rounds", 2, "--out", folder)).code == 0
    whole = read_load(folder)
    for flags in (["--requests", 3], [url], ["--no-stream"], ["--out", tmp_path / "x"], ["--model", "m"]):
        outcome = command("load", "--resume", folder, *flags)
        assert (outcome.code, "leave all others out" in outcome.err) == (2, True), flags
    outcome = command("load", url, "--out", folder)
    assert (outcome.code, f"--resume {folder}" in outcome.err) == (2, True)
    assert command("load", "--resume", folder).code == 0
    assert read_load(folder).run == whole.run  # it was over
    open_ = whole.run.model_copy(update={"finished": None})
    settings = whole.run.settings.model_copy(update={"output_tokens": 9})
    write_load(folder, open_.model_copy(update={"settings": settings}))
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "the settings changed" in outcome.err) == (2, True)
    assert len(read_load(folder).requests) == 8  # nothing lost
    (server,) = whole.run.endpoints
    write_load(folder, open_.model_copy(update={"endpoints": (server.model_copy(update={"about": {}}),)}))
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "a server or how it is asked changed" in outcome.err) == (2, True)
    write_load(folder, open_.model_copy(update={"windows": whole.run.windows[::-1]}))
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "not in the order" in outcome.err) == (2, True)
    write_load(folder, open_.model_copy(update={"options": {}}))
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "an older dlmbench" in outcome.err) == (2, True)
    write_load(folder, open_.model_copy(update={"options": {"speed": 1}}))
    outcome = command("load", "--resume", folder)
    assert (outcome.code, "load.json: options." in outcome.err) == (2, True)


SUITE = """
description = "cells and a server"
processes = 1
budget_s = 0.1
warmup_s = 0.1
min_samples = 1
quality_texts = 0
foreign_limit = 1000.0

[[grid]]
pairs = ["small"]
lengths = [4]
steps = ["2"]

[load]
requests = 3
warmup = 1
output_tokens = 8
prompt_tokens = 8
concurrency = [1, 2]

[[load.endpoint]]
url = "URL"
"""


def test_a_suite_has_cells_and_servers(command: Callable[..., Any], tmp_path: Path, url: str) -> None:
    suite, folder = tmp_path / "both.toml", tmp_path / "run"
    suite.write_text(SUITE.replace("URL", url))
    outcome = command("run", suite, "--dry-run", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert f"up to 8 requests to {url}: concurrency=1, concurrency=2" in outcome.out
    outcome = command("run", suite, "--device", "cpu", "--out", folder, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["ok_cells"], document["load_answered"]) == (2, True)
    assert [level["requests"] for level in document["load"]["levels"]] == [3, 3]
    page, summary = (folder / "report.html").read_text(), (folder / "summary.md").read_text()
    assert 'href="load/report.html"' in page
    assert (folder / "load" / "report.html").is_file()
    for text in (page, summary, command("show", folder).out):
        assert "concurrency=2" in text or "concurrency = 2" in text
    assert "## Servers under load" in summary

    # Killed between its cells and its second level.
    cut(read_load(folder / "load"), 1)
    trials = read_run(folder).trials
    outcome = command("run", "--resume", folder)
    assert outcome.code == 0, outcome.err
    assert read_run(folder).trials == trials
    assert [window.load.value for window in read_load(folder / "load").run.windows] == [1, 2]
    finished = (folder / "load" / "load.json").read_bytes()
    assert command("run", "--resume", folder).code == 0
    assert (folder / "load" / "load.json").read_bytes() == finished

    shown = command("show", folder, "--json").out
    assert json.loads(shown)["load"]["id"] == document["load"]["id"]
    assert url in page
    assert "key_file" not in page  # of the load's settings the page has what was measured, no paths

    suite.write_text(SUITE.replace("URL", url).replace("requests = 3", "requests = 4"))
    outcome = command("run", "--resume", folder)
    assert (outcome.code, "the suite's load changed" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("requests = 3", "speed = 3"), "load.speed"),
        (("requests = 3", "requests = 0"), "--requests"),
        (('url = "URL"', 'url = "nonsense"'), "expected a URL"),
        (('url = "URL"', 'url = "URL"\nkey_env = "NO_SUCH_KEY"'), "not set"),
        (('url = "URL"', 'url = "http://127.0.0.1:9/v1"'), "give --model"),
        (('url = "URL"', 'url = "URL"\nkey = "sk-secret"'), "load.endpoint.0.key: Extra inputs"),
        (('url = "URL"', 'url = "URL"\nextra = { since = 2024-01-01 }'), "load.endpoint.0.extra.since"),
        (("requests = 3", 'requests = 5000\nmodel = "m"'), "load.model"),
    ],
)
def test_a_suites_load_is_refused_before_anything_is_measured(
    command: Callable[..., Any], tmp_path: Path, url: str, change: tuple[str, str], said: str
) -> None:
    suite, folder = tmp_path / "both.toml", tmp_path / "run"
    suite.write_text(SUITE.replace(*change).replace("URL", url))
    outcome = command("run", suite, "--device", "cpu", "--out", folder)
    assert outcome.code == 2
    assert said in outcome.err
    assert "sk-secret" not in outcome.err
    assert not folder.exists()
    planned = command("run", suite, "--device", "cpu", "--dry-run")
    assert planned.code == 2 or "give --model" in said  # of a dry run no server is asked


def test_a_gate_judges_no_servers(command: Callable[..., Any], tmp_path: Path, url: str) -> None:
    suite = tmp_path / "both.toml"
    suite.write_text(SUITE.replace("URL", url))
    outcome = command("gate", suite, "--counters", tmp_path / "work.json", "--renew")
    assert outcome.code == 2
    assert "a gate judges cells, not servers" in outcome.err
