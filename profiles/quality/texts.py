"""The generated texts, and what a source with known probabilities says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import InputError

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Generated texts, one a row, each behind its prompt.

    ids: [N, S] token ids. `prompt_length`: the first positions, given and never judged. emitted: [N] tokens that each
    text emitted under the length policy (`natural`: up to and with its first EOS); what stands behind them is not
    judged either. Raises InputError where the shapes or lengths cannot be.
    """

    ids: Ints
    prompt_length: int
    emitted: Ints

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or not self.ids.size:
            raise InputError(f"texts: ids must be [N, S] with N and S at least 1, found {list(self.ids.shape)}")
        rows, length = self.ids.shape
        if not 0 <= self.prompt_length < length:
            raise InputError(f"texts: prompt_length must lie in 0..{length - 1}, found {self.prompt_length}")
        if self.emitted.shape != (rows,):
            raise InputError(f"texts: emitted must be [{rows}], one length a row, found {list(self.emitted.shape)}")
        room = length - self.prompt_length
        wrong = np.flatnonzero((self.emitted < 0) | (self.emitted > room))
        if wrong.size:
            row = int(wrong[0])
            raise InputError(f"texts: row {row} emitted {self.emitted[row]} tokens; give 0..{room}, without the prompt")

    @property
    def judged(self) -> NDArray[np.bool_]:
        """[N, S]: the emitted positions."""
        return self.first(self.emitted)

    @property
    def tokens(self) -> int:
        """Judged tokens of all texts."""
        return int(self.emitted.sum())

    def first(self, lengths: Ints) -> NDArray[np.bool_]:
        """[N, S]: the first `lengths` [N] positions behind the prompt."""
        column = np.arange(self.ids.shape[1])[None, :]
        return (column >= self.prompt_length) & (column < self.prompt_length + lengths[:, None])

    def rows(self) -> list[Ints]:
        """The emitted ids of each text."""
        start = self.prompt_length
        return [row[start : start + count] for row, count in zip(self.ids, self.emitted.tolist(), strict=True)]

    def counts(self, vocab_size: int) -> Floats:
        """[N, V]: how often each text emitted each id. Raises InputError for an id outside 0..V-1."""
        judged = self.judged
        rows, ids = np.nonzero(judged)[0], self.ids[judged].astype(np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            found = f"{ids.min()}..{ids.max()}"
            raise InputError(f"texts: ids {found} do not fit {vocab_size} word frequencies; give both one vocabulary")
        flat = np.bincount(rows * vocab_size + ids, minlength=len(self.ids) * vocab_size)
        return flat.reshape(len(self.ids), vocab_size).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What the exact source says of texts [N, S], each read from a document's start.

    log_prob: [N, S] nats of each token given all before it, -inf from the first impossible one on. valid_until: [N]
    position of that one, S if there is none. violation: [N] what it broke, an index into `kinds`, whose first name
    stands for none. entropy: [N, S] the source's own uncertainty in nats about each token, if known.
    """

    log_prob: Floats
    valid_until: Ints
    violation: Ints
    kinds: tuple[str, ...]
    entropy: Floats | None = None

    def possible(self, texts: Texts) -> NDArray[np.int64]:
        """[N]: the judged tokens of each text before its first impossible one.

        Raises InputError if the verdict is not of these texts, contradicts itself or finds a prompt impossible.
        """
        rows, length = texts.ids.shape
        for name, array, shape in (
            ("log_prob", self.log_prob, (rows, length)),
            ("valid_until", self.valid_until, (rows,)),
            ("violation", self.violation, (rows,)),
            ("entropy", self.entropy, (rows, length)),
        ):
            if array is not None and array.shape != shape:
                raise InputError(f"verdict: {name} must be {list(shape)} like the texts, found {list(array.shape)}")
        bad = np.flatnonzero(self.valid_until < texts.prompt_length)
        if bad.size:
            row = int(bad[0])
            raise InputError(
                f"verdict: the prompt of row {row} is impossible at token {self.valid_until[row]}; what follows cannot "
                "be judged: draw the prompts from the source"
            )
        count = np.clip(self.valid_until - texts.prompt_length, 0, texts.emitted).astype(np.int64)
        within = texts.first(count)
        for name, array in (("log_prob", self.log_prob), ("entropy", self.entropy)):
            if array is not None and not np.isfinite(array[within]).all():
                raise InputError(f"verdict: {name} is not finite before valid_until; score the texts that were given")
        return count
