"""The gate's document on disk: what is written is read again, older ones too, and anything else is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.profiles.gate import CellJudgement, Counted, GateResult, Policy, Reasoned, TimedJudgement
from dlmbench.profiles.gate_record import GateContext, GateDocument, GateSide, SideDifference, read_gate, write_gate

# A document of schema 1 with nothing but what that schema requires, as it was on the day it was written.
FIRST: dict[str, Any] = {
    "schema_version": 1,
    "result": {
        "verdict": "PASS",
        "outcome": {"verdict": "PASS", "code": "within_margins", "message": "every cell is within its margin"},
        "cells": [
            {
                "key": "small/ar/L=16",
                "outcome": {"verdict": "PASS", "code": "within_margin", "message": "within the margin"},
                "timed": [
                    {
                        "metric": "latency_s", "pairs": 6, "change": 0.001, "low": -0.01, "high": 0.012, "upper": 0.01,
                        "p": 0.9, "p_adjusted": 1.0, "margin": 0.03, "floor": 5e-05, "base": 0.0123,
                        "outcome": {"verdict": "PASS", "code": "within_margin", "message": "within the margin"},
                    }
                ],
            }
        ],
        "pairs": 6, "look": 1, "looks": [6, 9], "next_look": None, "policy": {},
    },
    "context": {
        "created": "2026-11-28T10:20:00+00:00", "suite": "ci", "device": "cpu", "device_name": "Example CPU",
        "base": {"name": "main"}, "head": {"name": "HEAD"}, "dlmbench_version": "0.1.0",
    },
}  # fmt: skip


def document() -> GateDocument:
    outcome = Reasoned(verdict="FAIL", code="slower", message="a\udc80 name that is no Unicode")
    judged = TimedJudgement(
        metric="latency_s", pairs=6, change=0.1, low=0.05, high=0.15, upper=0.14, p=1e-5, p_adjusted=3e-5, margin=0.03,
        floor=0.0, base=0.1, outcome=outcome,
    )  # fmt: skip
    counted = (Counted(name="nfe", base=16.0, head=None, direction="lower"), outcome)
    cell = CellJudgement(key="k", outcome=outcome, timed=(judged,), counted=(counted,))
    return GateDocument(
        result=GateResult(verdict="FAIL", outcome=outcome, cells=(cell,), pairs=6, look=1, looks=(6,), next_look=None,
                          policy=Policy(counters={"memory_peak_b": 0.01})),
        context=GateContext(
            created="2026-11-28T10:20:00+00:00", command=("dlmbench", "gate", "\udcff"), suite="ci", device="cpu",
            device_name="Example CPU", base=GateSide(name="main", commit="01"), head=GateSide(name="HEAD", dirty=True),
            differences=(SideDifference(name="threads", base="1", head="2"),), environment={"cpu": {"model": None}},
            cell_s={"k": 1.5}, dlmbench_version="0.1.0",
        ),
    )  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_gate(tmp_path / "gate.json", document())
    assert read_gate(tmp_path / "gate.json") == document()
    assert json.loads((tmp_path / "gate.json").read_text())["result"]["verdict"] == "FAIL"
    assert [path.name for path in tmp_path.iterdir()] == ["gate.json"]


def test_the_first_schema_stays_readable(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text(json.dumps(FIRST))
    read = read_gate(tmp_path / "gate.json")
    assert read.result.cells[0].timed[0].margin == 0.03
    assert read.context.differences == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        (json.dumps({"schema_version": 99}), "newer than this dlmbench reads"),
        (json.dumps({"schema_version": 1}), "result: Field required; restore the file or run the gate again"),
        (json.dumps(FIRST | {"extra": 1}), "extra: Extra inputs are not permitted"),
    ],
)
def test_anything_else_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_gate(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary", "."):
        with pytest.raises(InputError, match="cannot be read"):
            read_gate(tmp_path / name)
