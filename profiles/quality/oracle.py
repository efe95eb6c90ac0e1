"""Against a source whose probabilities are known: which texts are possible, and how likely they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import InputError
from ..record import Value
from .intervals import mean, ratio, share
from .texts import Floats, Texts, Verdict

EMPTY = "empty"


def validity(texts: Texts, verdict: Verdict) -> Value:
    """Share of texts whose every judged token is possible given what is before it; interval: Wilson 1927.

    A text that emitted nothing is no valid text. Longer texts have more occasions to fail, so compare equal lengths.
    """
    valid = (verdict.possible(texts) == texts.emitted) & (texts.emitted > 0)
    return share(int(valid.sum()), len(valid))


def valid_prefix(texts: Texts, verdict: Verdict) -> Value:
    """Mean over texts of the share of judged tokens before the first impossible one; 0 for a text that emitted nothing.

    It still tells generators apart where hardly any text is wholly valid.
    """
    return mean(verdict.possible(texts) / np.maximum(texts.emitted, 1))


def violation_shares(texts: Texts, verdict: Verdict) -> dict[str, Value]:
    """Kind of a text's first violation -> share of all texts that it ended; with 1, they add up to 1 - validity.

    Every kind is there, also those of no text. `empty` is there if a text emitted nothing.
    """
    possible = verdict.possible(texts)
    broken = possible < texts.emitted
    kinds = verdict.violation[broken]
    if kinds.size and not 1 <= kinds.min() <= kinds.max() < len(verdict.kinds):
        raise InputError(f"verdict: an impossible text needs a kind of violation in 1..{len(verdict.kinds) - 1}")
    counts = np.bincount(kinds, minlength=len(verdict.kinds))
    n = len(broken)
    shares = {name: share(int(count), n) for name, count in zip(verdict.kinds[1:], counts[1:], strict=True)}
    empty = int((texts.emitted == 0).sum())
    return shares | ({EMPTY: share(empty, n)} if empty else {})


def cross_entropy(texts: Texts, verdict: Verdict) -> Value:
    """-log p of the judged tokens under the source, nats a token, up to each text's first impossible token.

    An impossible token costs infinitely many nats, so that one invalid text would make every mean infinite; leaving
    invalid texts out whole would keep the short and easy ones. This is what the possible part costs and reads only
    beside `validity`. Pooled over tokens; interval over texts: see `intervals.ratio`.
    """
    possible = verdict.possible(texts)
    return _per_token(-_summed(verdict.log_prob, texts, possible), possible)


def cross_entropy_gap(texts: Texts, verdict: Verdict, entropy_rate: float) -> Value:
    """Cross-entropy minus the source's own entropy, nats a token: 0 for the source's texts, below 0 for likelier ones.

    Where the verdict has the exact entropy of each position, it is subtracted there: the mean is then exactly 0 for the
    source's own texts whatever the prompt, the length and the stopping rule (a martingale difference), and the interval
    is narrower. Otherwise `entropy_rate` is subtracted, which holds for endless texts: behind a prompt, at a document's
    start or with an end at EOS the source's own texts may then differ from 0.
    """
    possible = verdict.possible(texts)
    own = possible * entropy_rate if verdict.entropy is None else _summed(verdict.entropy, texts, possible)
    return _per_token(-_summed(verdict.log_prob, texts, possible) - own, possible)


def _summed(values: Floats, texts: Texts, lengths: NDArray[np.int64]) -> Floats:
    """[N]: sums of values [N, S] over the first `lengths` [N] positions behind the prompt."""
    summed: Floats = np.where(texts.first(lengths), values, 0.0).sum(axis=1)
    return summed


def _per_token(nats: Floats, tokens: NDArray[np.int64]) -> Value:
    if not tokens.any():
        return Value(value=None, n=len(tokens), why="no text has a possible token: nothing to take the likelihood of")
    return ratio(nats, tokens.astype(np.float64))
