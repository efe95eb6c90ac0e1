"""What a person sees of a training: loss, speed and time left while it goes on; a table and a card at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..models.training.loop import Progress
from ..models.training.recipe import Recipe
from ..models.training.shapes import Model

_REFRESH_S, _LINE_S = 0.5, 10.0
# Work of a step against AR's: block diffusion runs the clean text beside the noisy one. For times and order only.
WORK: Mapping[str, float] = {"ar": 1.0, "mdlm": 0.95, "sedd": 1.15, "block-diffusion": 2.1}


class TrainView:
    """Watches a training from between its steps: a live line on a terminal, a line every ten seconds elsewhere."""

    def __init__(
        self,
        console: Console,
        models: Sequence[Model],
        recipe: Recipe,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._recipe, self._quiet, self._clock = console, recipe, quiet, clock
        self._ahead = list(models)
        self._begin, self._first, self._drawn, self._loss = clock(), 0, clock(), float("nan")
        self._live = Live(console=console, auto_refresh=False, transient=True) if self._animated else None

    @property
    def _animated(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def __enter__(self) -> TrainView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, model: Model, progress: Progress) -> None:
        """`model`'s steps begin, or go on from `progress`."""
        self._ahead = [other for other in self._ahead if other != model]
        self._begin, self._first, self._loss = self._clock(), progress.step, float("nan")
        if progress.step:
            self.say(f"{model}: goes on from step {progress.step}")

    def step(self, model: Model, progress: Progress, loss: float) -> None:
        """A step is done; `loss` is its batch's."""
        known = self._loss == self._loss
        self._loss = 0.95 * self._loss + 0.05 * loss if known else loss
        now = self._clock()
        if self._quiet or now - self._drawn < (_REFRESH_S if self._live else _LINE_S):
            return
        self._drawn = now
        text = Text(self._line(model, progress, now))
        if self._live is not None:
            self._live.update(text, refresh=True)
        else:
            self._console.print(text, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def _line(self, model: Model, progress: Progress, now: float) -> str:
        recipe, done = self._recipe, progress.step - self._first
        each = (now - self._begin) / done
        left = (recipe.steps - progress.step) * each
        others = sum(WORK[other] for other in self._ahead) / WORK[model] * recipe.steps * each
        speed = recipe.batch * recipe.length / each
        whole = f", about {minutes(left + others)} with the other models" if self._ahead else ""
        return (
            f"{model}: step {progress.step}/{recipe.steps}, loss {self._loss:.3f} nats, {speed:,.0f} tok/s, "
            f"{minutes(left)} left{whole}"
        )


def minutes(seconds: float) -> str:
    """A duration for reading: `48 s`, `7 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


HEADER = ("model", "parameters", "held-out nats/token", "kind", "source's own", "ratio", "seconds", "tok/s")


def rows(cards: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row of the summary for each model's card (see `train_command`)."""
    found: list[tuple[str, ...]] = []
    for model, card in cards.items():
        loss = card["held_out"]
        own, ratio = loss["source_nats"], loss["ratio"]
        found.append(
            (
                model,
                f"{card['parameters']:,}",
                f"{loss['nats']:.4f}" + (f" ± {loss['mc_error']:.4f}" if loss["kind"] == "bound" else ""),
                loss["kind"],
                "-" if own is None else f"{own:.4f}",
                "-" if ratio is None else f"{ratio:.3f}",
                f"{card['seconds']:.0f}",
                f"{card['tokens'] / max(card['seconds'], 1e-9):,.0f}",
            )
        )
    return found


def show_summary(document: Mapping[str, Any], console: Console) -> None:
    """The summary as a table."""
    table = Table(*HEADER)
    for row in rows(document["models"]):
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(Text(_sentence(document)), soft_wrap=True)
    console.print(Text(str(document["folder"])), soft_wrap=True)


def card_text(document: Mapping[str, Any]) -> str:
    """The summary as Markdown: `card.md`."""
    lines = ["# Trained by `dlmbench train`", "", _sentence(document), ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(document["models"])]
    return "\n".join([*lines, ""])


def _sentence(document: Mapping[str, Any]) -> str:
    recipe, rate = document["recipe"], document["data"]["entropy_rate"]
    tokens = recipe["steps"] * recipe["batch"] * recipe["length"]
    source = "" if rate is None else f" Its entropy rate is {rate:.4f} nats per token."
    return (
        f"Data: {document['data']['name']}, seed {recipe['seed']}; each model saw the same {tokens:,} tokens in "
        f"{recipe['steps']} steps of {recipe['batch']} x {recipe['length']}.{source} AR's loss is exact, after an EOS; "
        "the others' is an upper bound, ± the standard error of its Monte Carlo estimate. \"Source's own\" is what the "
        "held-out texts cost under the source itself, the ratio is over that."
    )
