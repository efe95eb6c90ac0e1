"""`dlmbench gate --counters`: exact, on no clock; real generations of two tiny cells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dlmbench.bench.gate.work import read_work
from dlmbench.bench.suites import load_suite
from dlmbench.models.names import BUILT_IN
from dlmbench.profiles.gate_record import read_gate

AR, DIFFUSION = "small/ar/L=4", "small/masked-diffusion/L=4,T=2"
COMMITTED = Path(__file__).parents[2] / "work.json"
MINE = """
import torch
print("a generator may print")

class Mine:
    side = "ar"
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        ids = torch.zeros((1, request.length), dtype=torch.int64)
        for i in range(FORWARDS):
            with observer.forward("target", "decode", 1, 1, 7, 1, "causal"):
                pass
        observer.write(None, ids, 0)
        return ids
"""


@pytest.fixture
def gate(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return lambda *flags: command("gate", "--counters", "work.json", *flags)


def changed(change: Callable[[dict[str, Any]], object]) -> None:
    path = Path("work.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_equal_work_passes_and_writes_the_same_bytes(gate: Callable[..., Any]) -> None:
    renewed = gate("--renew", "--json")
    assert json.loads(renewed.out) == {"counters": "work.json", "cells": 3, "undecided": []}
    first = Path("work.json").read_bytes()
    assert json.loads(first)["cells"][AR]["nfe"] == 4
    outcome = gate("--out", "out")
    assert outcome.code == 0, outcome.out + outcome.err
    document = read_gate(Path("out/gate.json"))
    assert [cell.key for cell in document.result.cells] == sorted([AR, "certificate of small", DIFFUSION])
    assert "nothing was timed" in outcome.out
    assert "p adjusted" not in outcome.out + Path("out/summary.md").read_text()
    suite = ElementTree.parse("out/junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
    assert gate("--renew").code == 0
    assert Path("work.json").read_bytes() == first


def nothing(document: dict[str, Any]) -> None: ...


def more_forwards(document: dict[str, Any]) -> None:
    document["cells"][AR]["nfe"] += 1


def fewer_tokens(document: dict[str, Any]) -> None:
    document["cells"][DIFFUSION]["forward_tokens"] -= 1


def smaller_network(document: dict[str, Any]) -> None:
    document["cells"]["certificate of small"]["total parameters (ar)"] -= 1


def other_words(document: dict[str, Any]) -> None:
    document["cells"]["certificate of small"]["mask (ar)"] = "none"


def cell_gone(document: dict[str, Any]) -> None:
    document["cells"]["small/ar/L=5"] = document["cells"].pop(AR)


def counter_gone(document: dict[str, Any]) -> None:
    document["cells"][AR]["draft_flops"] = 1


def other_suite(document: dict[str, Any]) -> None:
    document["suite"] = "lesson"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> str:
    from dlmbench.bench.gate.work import count_work, write_work
    from dlmbench.bench.options import RunOptions
    from dlmbench.bench.plan import make_plan

    path = tmp_path_factory.mktemp("counted") / "work.json"
    write_work(path, *count_work(make_plan(RunOptions(suite="ci", device="cpu"))))
    return path.read_text()


@pytest.mark.parametrize(
    ("change", "verdict", "code"),
    [
        (nothing, "PASS", 0),
        (more_forwards, "CHANGED", 1),  # the base did more
        (fewer_tokens, "FAIL", 1),
        (smaller_network, "CHANGED", 1),
        (other_words, "CHANGED", 1),
        (cell_gone, "INVALID", 4),
        (counter_gone, "INVALID", 4),
        (other_suite, "INVALID", 4),
    ],
)
def test_verdicts(
    gate: Callable[..., Any], counted: str, change: Callable[[dict[str, Any]], object], verdict: str, code: int
) -> None:
    Path("work.json").write_text(counted)
    changed(change)
    outcome = gate("--json")
    assert (json.loads(outcome.out)["result"]["verdict"], outcome.code) == (verdict, code), outcome.out
    accepted = gate("--accept-changed").code
    assert accepted == (0 if verdict in ("PASS", "CHANGED") else code)


def test_a_generator_of_ones_own_is_gated_and_may_print(
    gate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--generator", "mine.py:Mine", "--only", "--json")

    def write(forwards: str) -> None:
        Path("mine.py").write_text(MINE.replace("FORWARDS", forwards))
        monkeypatch.delitem(sys.modules, f"dlmbench_plugin:{Path('mine.py').resolve()}", raising=False)

    write("request.length")
    assert json.loads(gate("--renew", *flags).out)["cells"] == 2
    before = Path("work.json").read_bytes()
    write("request.length + 1")
    outcome = gate(*flags)
    result = json.loads(outcome.out)["result"]
    assert (outcome.code, result["verdict"]) == (1, "FAIL")
    assert "nfe 4 -> 5" in result["outcome"]["message"]
    write("1 // 0")
    broken = gate(*flags)
    assert broken.code == 4
    assert "ZeroDivisionError" in json.loads(broken.out)["result"]["outcome"]["message"]
    assert "ZeroDivisionError" in gate("--renew", *flags[:-1]).complaint
    assert Path("work.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "flags", "complaint"),
    [
        (None, (), "no such file; write it with --renew"),
        ("", (), "cannot be read as JSON"),
        ("[]", (), "no schema_version"),
        ('{"schema_version": 99}', (), "schema_version 99"),
        ('{"schema_version": 1, "cells": {}}', (), "suite: Field required"),
        ('{"schema_version": 1, "suite": "ci", "cells": {"a": 1}}', (), "cells.a"),
        ('{"schema_version": 1, "suite": "ci", "cells": {"a": {"nfe": NaN}}}', (), "finite"),
        (None, ("--margin", "5%"), "leave --margin out"),
        (None, ("--against", "main"), "several were given"),
        (None, ("--learn-margins",), "leave --learn-margins out"),
    ],
)
def test_bad_input_is_one_line(
    gate: Callable[..., Any], text: str | None, flags: tuple[str, ...], complaint: str
) -> None:
    if text is not None:
        Path("work.json").write_text(text)
    assert complaint in gate(*flags).complaint


def test_what_the_data_decide_is_said_when_it_is_written(gate: Callable[..., Any]) -> None:
    flags = ("--generator", "speculative", "--only", "--lengths", "4", "--steps", "4")
    outcome = gate("--renew", *flags)
    assert outcome.code == 0, outcome.err
    assert "small/speculative/L=4,T=4: the data or the draws decide" in outcome.out
    assert set(read_work(Path("work.json")).cells["small/speculative/L=4,T=4"]) == {"output_tokens", "canvas_tokens"}


def test_renewing_wants_a_file(command: Callable[..., Any]) -> None:
    assert "--renew writes the file of --counters" in command("gate", "--against", "main", "--renew").complaint


def test_an_empty_baseline_is_no_pass(gate: Callable[..., Any]) -> None:
    Path("work.json").write_text('{"schema_version": 1, "suite": "ci", "cells": {}}')
    assert gate().code == 4


def test_this_repository_counts_every_generator_that_a_small_pair_can_run() -> None:
    counted = read_work(COMMITTED)
    assert counted.suite == "work"
    generators = {key.split("/")[1] for key in counted.cells if "/" in key}
    # GPT-2 and DiffusionGemma are networks of their own, of 124M and 26B parameters.
    assert generators == BUILT_IN.keys() - {"gpt2", "diffusion-gemma"}
    # How many logits SEDD computes is drawn; all else is a fact of the code.
    unknown = {key.split("/")[1] for key, work in counted.cells.items() if "/" in key and "model_flops" not in work}
    assert unknown == {"sedd"}
    assert counted.undecided == []
    assert load_suite("work").grid
