"""The context of a gate: who its two sides are, what they were measured on, what else differs between them."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .. import __version__
from ..profiles.environment import capture_environment
from ..profiles.gate_record import GateContext, GateSide, SideDifference
from ..profiles.record import Trial
from ..profiles.store import StoredRun
from .conditions import conditions
from .format import MISSING

Revision = tuple[str | None, bool | None]
"""A commit, and whether what was measured differs from it."""

# Differences that are the gate's question, or its two sides' own, and so no difference of conditions.
_OWN = (
    "commit", "dlmbench",
    *(f"environment.{git}.{what}" for git in ("git", "working_git") for what in ("commit", "dirty")),
)  # fmt: skip


def stored_context(
    base: StoredRun,
    head: StoredRun,
    *,
    names: tuple[str, str],
    command: Sequence[str],
    created: str,
    duration_s: float | None = None,
    paired: bool = False,
    revisions: tuple[Revision | None, Revision | None] = (None, None),
) -> GateContext:
    """The context of two runs. `names` is what the user calls base and head; the rest is read off their records.
    `paired`: they are the two sides of one job. `revisions`: what was checked out for each in the user's repository;
    where nothing was, a side is known by the dlmbench that its workers ran."""
    suites = dict.fromkeys((base.run.suite, head.run.suite))
    tables = conditions(base), conditions(head)
    differing = [
        SideDifference(name=name, base=tables[0].get(name, MISSING), head=tables[1].get(name, MISSING))
        for name in dict.fromkeys([*tables[0], *tables[1]])
        if name not in _OWN and tables[0].get(name) != tables[1].get(name)
    ]
    return GateContext(
        created=created,
        duration_s=duration_s,
        command=tuple(command),
        suite=" against ".join(suites),
        device=head.run.device,
        device_name=head.run.device_name,
        base=_side(names[0], base, revisions[0]),
        head=_side(names[1], head, revisions[1]),
        paired=paired,
        differences=tuple(differing),
        environment=head.run.environment,
        cell_s=measured_s((*base.trials, *head.trials)),
        dlmbench_version=__version__,
    )


def counted_context(
    file: str, *, suite: str, device: str, command: Sequence[str], created: str, duration_s: float
) -> GateContext:
    """The context of a gate of counted work: `file` is the base, the code in this process the head."""
    environment = capture_environment()
    libraries = environment.get("libraries") or {}
    git = environment.get("git") or {}
    head = GateSide(
        name="this code",
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        dlmbench=__version__,
        torch=libraries.get("torch"),
        python=platform.python_version(),
    )
    return GateContext(
        created=created,
        duration_s=duration_s,
        command=tuple(command),
        suite=suite,
        device=device,
        device_name="any, since no clock is read",
        base=GateSide(name=file),
        head=head,
        paired=False,
        counted=True,
        environment=environment,
        dlmbench_version=__version__,
    )


def measured_s(trials: Iterable[Trial]) -> dict[str, float]:
    """Seconds spent in the timed samples of each cell, discarded ones too, by its key."""
    spent: dict[str, float] = defaultdict(float)
    for trial in trials:
        spent[trial.key] += sum(sample.latency_s for sample in trial.samples)
    return dict(spent)


def _side(name: str, stored: StoredRun, revision: Revision | None) -> GateSide:
    """What its workers said of themselves; of several different answers, all of them."""
    workers = [trial.worker for trial in stored.trials if trial.worker]
    git = stored.run.environment.get("git")

    def told(values: Iterable[str | None]) -> str | None:
        return ", ".join(dict.fromkeys(value for value in values if value)) or None

    if revision is None:
        commit = told(worker.commit for worker in workers)
        revision = commit, git.get("dirty") if isinstance(git, dict) else None
    return GateSide(
        name=name,
        commit=revision[0],
        dirty=revision[1],
        dlmbench=told(worker.package_version for worker in workers) or stored.run.dlmbench_version,
        torch=told(worker.torch for worker in workers),
        python=told(worker.python for worker in workers),
    )
