"""The words of the gate: what it is asked (`Policy`), what it is shown (`Evidence`), what it says (`GateResult`).

The gate compares a head with a base, cell by cell. Timed metrics are judged on log-ratios, one for each pair of fresh
processes; counters that no clock enters are judged exactly. They lie here, below both rooms that use them: `bench.gate`
decides, `reports` shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from .stored import Stored

T = TypeVar("T")

Verdict = Literal["PASS", "FAIL", "CHANGED", "INCONCLUSIVE", "INVALID"]
# From best to worst: the verdict of several is the worst of theirs.
SEVERITY: tuple[Verdict, ...] = ("PASS", "CHANGED", "INCONCLUSIVE", "FAIL", "INVALID")
EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "FAIL": 1, "CHANGED": 1, "INCONCLUSIVE": 3, "INVALID": 4}
# Time is judged on at least so many pairs of fresh processes, or so many processes of a stored run.
MIN_PROCESSES = 6


class Margin(Stored):
    """How much worse a timed metric may become: `relative` of the base (0.03: 3 %), and `floor`, in the metric's unit,
    below which no change matters however many per cent it is."""

    relative: float = Field(gt=0, lt=1, strict=True)
    floor: float = Field(default=0.0, ge=0, allow_inf_nan=False, strict=True)


class MarginChange(Stored):
    """A margin's change for some cells; what is None stays as it is."""

    relative: float | None = Field(default=None, gt=0, lt=1, strict=True)
    floor: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=True)


Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class CellPolicy(Stored):
    """What is different for the cells whose key matches `match`, a shell pattern (`small/ar/*`)."""

    match: str = Field(min_length=1, strict=True)
    margins: dict[str, MarginChange] = {}
    counters: dict[str, Tolerance] = {}
    ungated: tuple[str, ...] = ()


class Policy(Stored):
    """How the gate decides.

    `alpha` is the chance of any false FAIL in a whole gate, over all its cells, metrics and looks; `level` the
    confidence of the one-sided upper bound that a PASS needs. `looks` are the numbers of pairs after which the gate
    looks, fixed in advance. A timed metric is gated if `margins` has it, a counter unless it is `ungated`: exactly, or
    within the relative tolerance in `counters`. Later `cells` win over earlier ones.

    The defaults come from `simulate`, for five cells and a pair's log-ratio with a standard deviation of 1 to 2 %:
    an A/A gate is inconclusive in at most one of ten, and +5 % in all cells is found in nine of ten; +5 % in a single
    cell is found so often up to 1.5 %.
    """

    alpha: float = Field(default=0.01, gt=0, lt=0.5, strict=True)
    level: float = Field(default=0.95, gt=0.5, lt=1, strict=True)
    looks: tuple[Annotated[int, Field(ge=MIN_PROCESSES, le=1000, strict=True)], ...] = (6, 9, 13, 18)
    margins: dict[str, Margin] = {"latency_s": Margin(relative=0.025, floor=5e-5)}
    counters: dict[str, Tolerance] = {"memory_peak_b": 0.05}
    ungated: tuple[str, ...] = ()
    cells: tuple[CellPolicy, ...] = ()
    accept_changed: bool = Field(default=False, strict=True)

    @field_validator("looks")
    @classmethod
    def _rising(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if not looks or any(later <= earlier for earlier, later in pairwise(looks)):
            raise ValueError("expected rising numbers of pairs, at least one")
        return looks

    @model_validator(mode="after")
    def _whole_margins(self) -> Policy:
        for cell in self.cells:
            for metric, change in cell.margins.items():
                if change.relative is None and _entry(self.margins, metric) is None:
                    raise ValueError(f"cells {cell.match!r} give {metric} no relative margin, and neither does margins")
        return self

    def margin(self, key: str, metric: str) -> Margin | None:
        """The margin of a timed metric in a cell; None: not gated. `time_to_k_s[8]` may be given as `time_to_k_s`."""
        margin = _entry(self.margins, metric)
        gated = not _listed(self.ungated, metric)
        for cell in self._matching(key):
            change = _entry(cell.margins, metric)
            if change is not None:
                given = change.model_dump(exclude_none=True)
                margin = Margin(**given) if margin is None else margin.model_copy(update=given)
            gated = gated and not _listed(cell.ungated, metric)
        return margin if gated else None

    def tolerance(self, key: str, counter: str) -> float | None:
        """The relative tolerance of a counter in a cell, 0 for exactly; None: not gated."""
        tolerance = _entry(self.counters, counter) or 0.0
        if _listed(self.ungated, counter):
            return None
        for cell in self._matching(key):
            changed = _entry(cell.counters, counter)
            tolerance = tolerance if changed is None else changed
            if _listed(cell.ungated, counter):
                return None
        return tolerance

    def times(self, key: str) -> bool:
        """Whether a cell has to show any time: some metric has a margin there."""
        named = {*self.margins, *(metric for cell in self.cells for metric in cell.margins)}
        return any(self.margin(key, metric) is not None for metric in named)

    def _matching(self, key: str) -> Iterator[CellPolicy]:
        return (cell for cell in self.cells if fnmatchcase(key, cell.match))


def _entry(table: Mapping[str, T], name: str) -> T | None:
    """What a table says of a name, or of the curve that it is a point of."""
    return table.get(name, table.get(name.partition("[")[0]))


def _listed(names: tuple[str, ...], name: str) -> bool:
    return name in names or name.partition("[")[0] in names


class Timed(Stored):
    """One timed metric of one cell: `log_ratios` of head over base, one for each pair of processes, positive where
    head is worse (a metric of which more is better is turned round). `base` is its median at base, in its unit.

    Unpaired evidence (two stored runs) has no ratios of its own: `base_logs` and `head_logs` then hold the logarithm of
    each process's value, turned round likewise. A metric that one side lost has neither, which is invalid.
    """

    metric: str
    unit: str
    base: float
    log_ratios: tuple[float, ...] = ()
    base_logs: tuple[float, ...] = ()
    head_logs: tuple[float, ...] = ()

    @property
    def paired(self) -> bool:
        return bool(self.log_ratios) or not (self.base_logs or self.head_logs)


class Counted(Stored):
    """One counter of one cell at base and at head; `direction` says which way is better (as declared in `metrics`)."""

    name: str
    base: float | None
    head: float | None
    direction: Literal["lower", "higher", "neutral"]


class CellEvidence(Stored):
    """All that is known of a cell. `spoiled`: why it cannot be judged (a code and a sentence), if it cannot. `timeless`
    evidence is of something that takes no time, such as a pair's match certificate; any other has to show its time."""

    key: str
    timeless: bool = False
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
    0.05: 5 % worse), the p-value of "no worse than the margin", Holm-adjusted over the gate, and the verdict.

    Bounds have the policy's `level`. `pairs`: for stored runs, the processes of the side that has fewer. `margin` and
    `floor` are None for a metric that is not gated.
    """

    metric: str
    pairs: int
    change: float | None
    low: float | None
    high: float | None
    upper: float | None
    p: float | None
    p_adjusted: float | None
    margin: float | None
    floor: float | None
    base: float | None
    outcome: Reasoned


class CellJudgement(Stored):
    """A cell's verdict: the worst of its parts'."""

    key: str
    outcome: Reasoned
    timed: tuple[TimedJudgement, ...] = ()
    counted: tuple[tuple[Counted, Reasoned], ...] = ()


class GateResult(Stored):
    """The gate's word at look number `look`, counted from 1, of those planned after `looks` pairs.

    `pairs`: the fewest of any gated metric; `alpha`: what this look may spend of the policy's; `next_look`: how many
    pairs the next look wants (None: nothing is left to decide, or no look).
    """

    verdict: Verdict
    outcome: Reasoned
    cells: tuple[CellJudgement, ...]
    pairs: int
    look: int
    looks: tuple[int, ...]
    alpha: float | None = None
    next_look: int | None
    policy: Policy
