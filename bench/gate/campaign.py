"""A gate's measuring: pairs at both sides, written down as they end, as two runs that every other command reads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...profiles.gate import CellEvidence, GateResult, Policy
from ...profiles.record import Cell, Reason, Trial
from ...profiles.store import append_trials, read_run, write_measurements, write_run
from ..folders import new_id
from ..options import RunOptions
from ..plan import Plan, ar_generators, whole
from ..progress import Progress
from ..run import new_run, replace_run
from ..summary import measurements
from .decision import decide
from .evidence import paired_evidence
from .looks import Looked, Trials, look_until_decided
from .measure import BOTH, PairBench, gate_job
from .proof import prove, same_code
from .resume import same_workers
from .sides import Side, SideName, comparison_notes


@dataclass(slots=True)
class Campaign:
    """Measures `plan` at both sides into `folder/base` and `folder/head`.

    `settings` are recorded beside the plan's own. `begun`: an earlier session of this gate made the records, and
    left the pairs `kept`.
    """

    plan: Plan
    sides: tuple[Side, Side]
    folder: Path
    progress: Progress
    options: RunOptions
    command: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    begun: bool = False
    kept: Sequence[Trials] = ()
    _looked: Looked | None = None

    def run(self, policy: Policy, budget_s: float | None) -> GateResult:
        """Measure until a verdict stands. Raises InputError for a plan that does not fit this device."""
        plan = self.plan
        whole(plan)
        if not self.begun:
            self._begin()
        sides: dict[SideName, Side] = {"base": self.sides[0], "head": self.sides[1]}
        begin = time.monotonic()
        with PairBench(gate_job(plan, self.folder), sides, self.progress) as bench:

            def proven() -> Reason | None:
                return next((why for name in BOTH if (why := prove(sides[name], bench.infos[name])) is not None), None)

            def keep(found: Mapping[SideName, list[Trial]]) -> None:
                if self.kept:
                    same_workers(self.folder, self.kept, {n: bench.infos[n] for n in BOTH if sides[n].made is None})
                for name, trials in found.items():
                    append_trials(self.folder / name, trials)

            with self.progress:
                self._looked = look_until_decided(
                    self.cells, policy, bench.measure, decide,
                    kept=self.kept, keep=keep, proven=proven, said=self.progress.say, budget_s=budget_s,
                )  # fmt: skip
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            for name in BOTH:
                stored = read_run(self.folder / name)
                own, trials = stored.run, stored.trials
                write_measurements(self.folder / name, measurements(trials, ar_generators(own.pairs), plan=own.plan))
                spent = time.monotonic() - begin
                write_run(self.folder / name, replace_run(own, trials, finished, spent, bench.device_name))
            same = same_code(*([t.worker for t in self._looked.trials[name] if t.worker is not None] for name in BOTH))
        self.notes += dict.fromkeys([*comparison_notes(*self.sides), *([same] if same else [])])
        return self._looked.result

    @property
    def cells(self) -> list[Cell]:
        return [cell for pairing in self.plan.pairings for cell in pairing.cells]

    def evidence(self, policy: Policy) -> list[CellEvidence]:
        """All that was measured, as evidence."""
        assert self._looked is not None
        return paired_evidence(self.cells, self._looked.trials["base"], self._looked.trials["head"], policy.margins)

    def _begin(self) -> None:
        record = new_run(self.options, self.plan, self.command)
        record = record.model_copy(update={"settings": record.settings | dict(self.settings)})
        # Base's last: where that is, both are.
        for name in reversed(BOTH):
            (self.folder / name).mkdir(exist_ok=True)
            # Two runs, not one and its copy.
            write_run(self.folder / name, record if name == "base" else record.model_copy(update={"id": new_id()}))
