"""The words of the gate: what it is asked (`Policy`), what it is shown (`Evidence`), what it says (`GateResult`).

The gate compares a head with a base, cell by cell. Timed metrics are judged on log-ratios, one for each pair of fresh
processes; counters that no clock enters are judged exactly. `decide` (in `decision`) is a pure function between these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...profiles.stored import Stored

Verdict = Literal["PASS", "FAIL", "CHANGED", "INCONCLUSIVE", "INVALID"]
# From best to worst: the verdict of several is the worst of theirs.
SEVERITY: tuple[Verdict, ...] = ("PASS", "CHANGED", "INCONCLUSIVE", "FAIL", "INVALID")
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "CHANGED": 1, "INCONCLUSIVE": 3, "INVALID": 4}


class Margin(Stored):
    """How much worse a timed metric may become: `relative` of the base (0.03: 3 %), and `floor`, in the metric's unit,
    below which no change matters however many per cent it is."""

    relative: float = Field(gt=0, lt=1)
    floor: float = Field(default=0.0, ge=0)


class Policy(Stored):
    """How the gate decides.

    `alpha` is the chance of any false FAIL in a whole gate, over all its cells, metrics and looks; `level` the
    confidence of the one-sided upper bound that a PASS needs. `looks` are the numbers of pairs after which the gate
    looks, fixed in advance. `margins` are by metric; `counters` the relative tolerance of those gated (0: exactly).
    """

    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    level: float = Field(default=0.95, gt=0.5, lt=1)
    looks: tuple[int, ...] = (6, 9, 13, 18)
    margins: dict[str, Margin] = {"latency_s": Margin(relative=0.03, floor=5e-5)}
    counters: dict[str, float] = {}
    accept_changed: bool = False


class Timed(Stored):
    """One timed metric of one cell: `log_ratios` of head over base, one for each pair of processes, positive where
    head is worse (a metric of which more is better is turned round). `base` is its median at base, in its unit.

    Unpaired evidence (two stored runs) has no ratios of its own: `base_logs` and `head_logs` then hold a value for
    each process.
    """

    metric: str
    unit: str
    base: float
    log_ratios: tuple[float, ...] = ()
    base_logs: tuple[float, ...] = ()
    head_logs: tuple[float, ...] = ()


class Counted(Stored):
    """One counter of one cell at base and at head; `direction` says which way is better (as declared in `metrics`)."""

    name: str
    base: float | None
    head: float | None
    direction: Literal["lower", "higher", "neutral"]


class CellEvidence(Stored):
    """All that is known of a cell. `spoiled`: why it cannot be judged (a code and a sentence), if it cannot."""

    key: str
    timed: tuple[Timed, ...] = ()
    counted: tuple[Counted, ...] = ()
    spoiled: tuple[str, str] | None = None


class Reasoned(Stored):
    """A verdict with its reasons: a code for programs, a sentence for people."""

    verdict: Verdict
    code: str
    message: str


class TimedJudgement(Stored):
    """What the ratios of one metric say: the change with its two-sided interval and one-sided upper bound (relative,
    0.05: 5 % worse), the p-value of "no worse than the margin", Holm-adjusted over the gate, and the verdict."""

    metric: str
    pairs: int
    change: float | None
    low: float | None
    high: float | None
    upper: float | None
    p: float | None
    p_adjusted: float | None
    margin: float
    floor: float
    base: float
    outcome: Reasoned


class CellJudgement(Stored):
    """A cell's verdict: the worst of its parts'."""

    key: str
    outcome: Reasoned
    timed: tuple[TimedJudgement, ...] = ()
    counted: tuple[tuple[Counted, Reasoned], ...] = ()


class GateResult(Stored):
    """The gate's word. `pairs` at this look; `next_look`: how many pairs the next look wants (None: there is none)."""

    verdict: Verdict
    outcome: Reasoned
    cells: tuple[CellJudgement, ...]
    pairs: int
    look: int
    looks: tuple[int, ...]
    next_look: int | None
    policy: Policy
