"""Gates made by hand: what the decision would have said of a slow cell, a changed one and an equal one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlmbench.profiles.gate import (
    CellJudgement,
    Counted,
    GateResult,
    Policy,
    Reasoned,
    TimedJudgement,
    Verdict,
)
from dlmbench.profiles.gate_record import GateContext, GateDocument, GateSide, SideDifference

HOSTILE = 'a|b]]>&<script>"\x00\x1b[31m\udc80\ufffe\u202e::error::x%0A,y\r\n::set-output name=z::1'
SLOW, EQUAL, FEWER = "small/mdlm/L=16,T=4", "small/ar/L=16", "small/block-diffusion/L=16,T=16,block=4"


def reasoned(verdict: Verdict, code: str = "code", message: str = "a sentence") -> Reasoned:
    return Reasoned(verdict=verdict, code=code, message=message)


def timed(verdict: Verdict, change: float | None, low: float | None, high: float | None, **fields: Any) -> Any:
    told: dict[str, Any] = {
        "metric": "latency_s", "pairs": 9, "change": change, "low": low, "high": high, "upper": high, "p": 0.5,
        "p_adjusted": 1.0, "margin": 0.03, "floor": 5e-5, "base": 0.0123, "outcome": reasoned(verdict),
    }  # fmt: skip
    return TimedJudgement(**{**told, **fields})


def cell(key: str, verdict: Verdict, code: str = "code", message: str = "a sentence", **fields: Any) -> CellJudgement:
    return CellJudgement(key=key, outcome=reasoned(verdict, code, message), **fields)


def three_cells() -> tuple[CellJudgement, ...]:
    """An equal cell, a slow one, and one that makes fewer forwards."""
    fewer = reasoned("CHANGED", "less_work", "nfe fell from 16 to 12")
    equal = reasoned("PASS", "equal", "equal")
    return (
        cell(
            EQUAL, "PASS", "within_margin", "the upper bound +0.9 % lies below the margin",
            timed=(timed("PASS", 0.002, -0.005, 0.009),),
            counted=((Counted(name="nfe", base=16, head=16, direction="lower"), equal),),
        ),
        cell(
            SLOW, "FAIL", "slower", "latency is 5.1 % worse, more than the margin of 3 %",
            timed=(timed("FAIL", 0.0512, 0.0401, 0.0623, p_adjusted=0.0001, base=0.00456),),
        ),
        cell(
            FEWER, "CHANGED", "less_work", "nfe fell from 16 to 12",
            timed=(timed("PASS", -0.213, -0.221, -0.205, base=0.0311),),
            counted=((Counted(name="nfe", base=16, head=12, direction="lower"), fewer),),
        ),
    )  # fmt: skip


def document(
    cells: Sequence[CellJudgement] | None = None, verdict: Verdict = "FAIL", accept_changed: bool = False, **fields: Any
) -> GateDocument:
    """A gate of `ci` at main against HEAD; `fields` go to the context."""
    context: dict[str, Any] = {
        "created": "2026-11-28T10:20:00+01:00", "duration_s": 131.4,
        "command": ("dlmbench", "gate", "--against", "main"),
        "suite": "ci", "device": "cpu", "device_name": "Example CPU",
        "base": GateSide(name="main", commit="0123456789abcdef", torch="2.12.0"),
        "head": GateSide(name="HEAD", commit="fedcba9876543210", dirty=True, torch="2.13.0"),
        "differences": (SideDifference(name="threads", base="1", head="2"),), "cell_s": {SLOW: 44.25},
        "dlmbench_version": "0.1.0",
    }  # fmt: skip
    result = GateResult(
        verdict=verdict, outcome=reasoned(verdict, "slower", f"{SLOW} is slower than its margin allows"),
        cells=three_cells() if cells is None else tuple(cells), pairs=9, look=2, looks=(6, 9, 13), next_look=None,
        policy=Policy(accept_changed=accept_changed),
    )  # fmt: skip
    return GateDocument(result=result, context=GateContext(**{**context, **fields}))


def hostile() -> GateDocument:
    """Every text that comes from outside is hostile."""
    judged = cell(HOSTILE, "FAIL", HOSTILE, HOSTILE, timed=(timed("FAIL", 0.1, 0.05, 0.15, metric=HOSTILE),), counted=(
        (Counted(name=HOSTILE, base=1, head=2, direction="lower"), reasoned("FAIL", HOSTILE, HOSTILE)),))  # fmt: skip
    side = GateSide(name=HOSTILE, commit=HOSTILE, torch=HOSTILE, python=HOSTILE, dlmbench=HOSTILE)
    return document(
        [judged], suite=HOSTILE, device=HOSTILE, device_name=HOSTILE, base=side, head=side, created=HOSTILE,
        command=("dlmbench", HOSTILE), differences=(SideDifference(name=HOSTILE, base=HOSTILE, head=HOSTILE),),
    )  # fmt: skip
