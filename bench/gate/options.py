"""What the gate's command line asks for, and which of its forms that is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ... import InputError
from ..options import RunOptions

Form = Literal["stored", "against", "commands", "same", "counters"]


@dataclass(frozen=True, slots=True)
class GateOptions:
    """`run` says what is measured and how; the rest, what with, and what becomes of it. Flags not given are None."""

    run: RunOptions = field(default_factory=lambda: RunOptions(suite="ci"))
    only_generators: bool = False
    baseline: tuple[Path, ...] = ()
    current: tuple[Path, ...] = ()
    against: str | None = None
    merge_base: bool = False
    install: tuple[str, ...] | None = None
    base_cmd: str | None = None
    head_cmd: str | None = None
    counters: Path | None = None
    renew: bool = False
    learn_margins: bool = False
    policy: Path | None = None
    margins: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    looks: str | None = None
    alpha: float | None = None
    accept_changed: bool = False
    budget_s: float | None = None
    resume: Path | None = None
    out: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None

    @property
    def form(self) -> Form:
        """Raises InputError unless exactly one form is asked for, whole."""
        asked: dict[Form, bool] = {
            "stored": bool(self.baseline or self.current),
            "against": self.against is not None,
            "commands": self.base_cmd is not None or self.head_cmd is not None,
            "counters": self.counters is not None,
        }
        chosen = [name for name, wanted in asked.items() if wanted]
        if self.learn_margins and not chosen:
            return "same"
        if len(chosen) != 1:
            raise InputError(
                "gate: expected one of --baseline RUN --current RUN, --against GIT_REF, --base-cmd COMMAND --head-cmd "
                f"COMMAND, or --counters FILE; {'none was' if not chosen else 'several were'} given"
            )
        if chosen == ["stored"] and not (self.baseline and self.current):
            raise InputError("gate: --baseline and --current go together; give both")
        if chosen == ["commands"] and None in (self.base_cmd, self.head_cmd):
            raise InputError("gate: --base-cmd and --head-cmd go together; give both")
        if self.learn_margins and chosen == ["stored"]:
            raise InputError("gate: --learn-margins measures; leave --baseline and --current out")
        if self.renew and chosen != ["counters"]:
            raise InputError("gate: --renew writes the file of --counters; give both")
        timed = {"--margin": self.margins, "--floor": self.floors, "--looks": self.looks, "--alpha": self.alpha,
                 "--budget": self.budget_s, "--learn-margins": self.learn_margins}  # fmt: skip
        for flag in (name for name, value in timed.items() if value) if chosen == ["counters"] else ():
            raise InputError(f"gate: --counters counts and reads no clock; leave {flag} out")
        form: Form = chosen[0]
        return form

    def settled(self) -> RunOptions:
        """The run's options with every path absolute: the sides' workers run elsewhere."""
        run = self.run
        weights = run.weights
        if weights is not None and Path(weights).exists():
            weights = str(Path(weights).resolve())
        prompts, tokenizer = (path and path.resolve() for path in (run.prompts, run.tokenizer))
        suite = str(Path(run.suite).resolve()) if run.suite.endswith(".toml") else run.suite
        return replace(run, weights=weights, prompts=prompts, tokenizer=tokenizer, suite=suite)
