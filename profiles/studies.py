"""What a pair's trained networks do, apart from any cell: the lesson's sentence, tasks with closed forms, infilling.

`studies.json` in a run's folder holds one `Studies` a pair. Nothing of it is timed.
"""

from __future__ import annotations

from pydantic import Field

from .record import Value
from .stored import Stored


class Candidate(Stored):
    """A token that could stand at a position, and its probability there."""

    token: str
    probability: float = Field(ge=0, le=1)


class NoiseLevel(Stored):
    """The sentence at noise level `t`: its tokens, None where masked."""

    t: float = Field(ge=0, le=1)
    tokens: tuple[str | None, ...]


class DenoisingStep(Stored):
    """One step: the tokens before it (None: masked), each masked position's likeliest candidates, what it commits.

    `candidates` has an entry a position, empty where a token stands already; `committed` are positions.
    """

    tokens: tuple[str | None, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    committed: tuple[int, ...]


class Regeneration(Stored):
    """The sentence from noise level `t` back: steps in order, and the text that came out.

    `log_prob` is the source's own, in nats, of the whole document (None: the source cannot write it).
    """

    t: float
    seed: int
    steps: tuple[DenoisingStep, ...]
    tokens: tuple[str, ...]
    text: str
    log_prob: float | None


class SentenceStudy(Stored):
    """A sentence masked at rising noise and written again. `context` is the text before it, which stays."""

    text: str
    context: str
    tokens: tuple[str, ...]
    levels: tuple[NoiseLevel, ...]
    regenerations: tuple[Regeneration, ...]


class TaskPoint(Stored):
    """Success of a task at T = `steps`: measured with its interval, and by the closed form (None: there is none)."""

    steps: int = Field(ge=1)
    measured: Value
    closed_form: float | None


class TaskCurve(Stored):
    """One task whose positions depend on each other, under a sampler that draws a step's positions independently.

    `length` is the positions drawn; `sampler` names the generator that was run; `source` where the closed form is from.
    """

    task: str
    description: str
    length: int
    sampler: str
    source: str
    points: tuple[TaskPoint, ...]


class InfillStudy(Stored):
    """A gap of `gap` tokens in the middle of the source's texts, filled by each side.

    `validity`: share of whole texts that the source can write, by who filled the gap (`diffusion`, `ar`, and
    `ar, best of N`: N fills drawn, the one after which AR finds the right side likeliest). AR writes on from the left.
    `example`: one text, by who filled it, the gap in brackets.
    """

    texts: int
    left: int
    gap: int
    right: int
    validity: dict[str, Value]
    example: dict[str, str] = Field(default_factory=dict)


class LikelihoodStudy(Stored):
    """Nats a token of the same unseen texts under each side's network: `exact`, or an upper bound.

    `monte_carlo_error`: standard error of a bound from its draws, nats a token; 0 where exact. `source` is what the
    texts cost under the source itself.
    """

    texts: int
    length: int
    nats: dict[str, Value]
    exact: dict[str, bool]
    monte_carlo_error: dict[str, float]
    source: float


class Studies(Stored):
    """The studies of one pair; None where its weights do not allow one, with the reason under its name in `why`."""

    pair: str
    sentence: SentenceStudy | None = None
    tasks: tuple[TaskCurve, ...] = ()
    infill: InfillStudy | None = None
    likelihood: LikelihoodStudy | None = None
    why: dict[str, str] = Field(default_factory=dict)
