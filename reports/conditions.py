"""What a run was measured under, flat: the names by which two runs, or two sides of a gate, may differ.

Left out are the environment's sections named `now`, which hold the load, clocks and free memory of one moment and never
agree, and what the user typed and where: the settings in force say what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..profiles.store import StoredRun
from .rows import run_facts

_FACTS = ("device", "torch", "threads", "dtype", "suite")
_MOMENT = "now"
_TYPED = ("cwd", "options", "gate", "sides")


def conditions(stored: StoredRun) -> dict[str, str]:
    """Every recorded condition by name, those that matter most first."""
    run, workers = stored.run, [trial.worker for trial in stored.trials if trial.worker]
    facts = dict(run_facts(stored))
    named = {name: facts[name] for name in _FACTS} | {
        "commit": ", ".join(dict.fromkeys(worker.commit or "unknown" for worker in workers)) or "unknown",
        "dlmbench": run.dlmbench_version,
        "python": ", ".join(dict.fromkeys(worker.python for worker in workers)) or "unknown",
        "seed": str(run.seed),
        "processes": str(run.processes),
    }
    weights = {f"weights of {pair.name}": pair.weights for pair in run.pairs}
    settings = {name: value for name, value in run.settings.items() if name not in _TYPED}
    rest = {"settings": settings, "prompts": run.prompts, "environment": run.environment}
    return named | weights | {name: value for key, tree in rest.items() for name, value in flat(key, tree).items()}


def flat(prefix: str, tree: object) -> dict[str, str]:
    """A nested document as dotted names; a list of sections is numbered, any other list is one value."""
    if isinstance(tree, list | tuple) and tree and all(isinstance(entry, Mapping) for entry in tree):
        tree = {str(index): entry for index, entry in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return {prefix: str(tree)}
    entries = [(key, leaf) for key, leaf in tree.items() if key != _MOMENT]
    return {name: value for key, leaf in entries for name, value in flat(f"{prefix}.{key}", leaf).items()}
