"""How far the words and choices of generated texts are from the source's exact frequencies.

KL(generated ‖ exact) is the direction that is finite: the exact frequency of every word that can occur is above 0,
while in a finite sample some rare word may be missing, which makes the other direction infinite. It cannot be flattered
by a low temperature: it is (cross-entropy of the words) - (their entropy), and a colder sampler lowers the second by
more than the first. It is 0 only where the frequencies are the source's. Its weakness: to leave out rare words costs
little, -log(1 - their mass); `quality.unigram_entropy` and `quality.distinct_1` stand beside it for that.

All three statistics are plug-in estimates with the bias of Miller and Madow (Miller 1955) taken out, ½ Σ var(q) / q.
For independent tokens that is the known (words - 1) / 2n; here var(q) is taken between texts, since a text stays with
its topic, so that its words are worth fewer than as many independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ... import InputError
from ..record import Value
from .intervals import LEVEL, ONE_TEXT, reflected
from .texts import Floats, Texts

_SEED = 20240229


def entropy_of(frequencies: Floats) -> float:
    """Entropy in nats of exact frequencies [V]: what `unigram_entropy` is for the source."""
    return float(-_x_log_x(frequencies).sum())


def _x_log_x(values: Floats) -> Floats:
    """x log x, elementwise, and its limit 0 at 0."""
    result: Floats = values * np.log(np.where(values > 0, values, 1.0))
    return result


def unigram_entropy(texts: Texts, vocab_size: int, *, seed: int = _SEED) -> Value:
    """Entropy of the pooled judged tokens, nats; bias-corrected, interval by the bootstrap over texts.

    Published figures are often of one sample's tokens (Zheng et al. 2024: low-precision Gumbel draws lower it and fake
    a good perplexity), which depends on its length; this one is of all texts together.
    """
    if not texts.tokens:
        return Value(value=None, n=len(texts.ids), why="no token was emitted")
    counts = _used(texts.counts(vocab_size))

    def plug_in(pooled: Floats) -> Floats:
        q = _frequencies(pooled)
        entropy: Floats = -_x_log_x(q).sum(axis=1)
        return entropy

    value = float(plug_in(counts.sum(axis=0)[None, :])[0]) + _bias(counts, np.zeros(counts.shape[1], dtype=np.int64))
    if len(counts) < 2:
        return Value(value=value, n=1, why=ONE_TEXT)
    low, high = reflected(counts, plug_in, seed)
    return Value(value=value, low=max(0.0, low), high=high, n=len(counts), level=LEVEL)


def word_kl(texts: Texts, frequencies: Floats, *, seed: int = _SEED) -> Value:
    """KL(generated ‖ exact) of word frequencies, nats: Σ q log(q / p) over words; frequencies [V] sum to 1.

    Over all judged tokens, also those behind a violation. Null with a reason where a word was generated that the source
    never writes (a mask token left over): the divergence is infinite. Bias-corrected and not below 0.
    """
    _check_shares("word frequencies", frequencies)
    if not texts.tokens:
        return Value(value=None, n=len(texts.ids), why="no token was emitted")
    counts = texts.counts(len(frequencies))
    never = np.flatnonzero((counts.sum(axis=0) > 0) & (frequencies == 0))
    if never.size:
        share = counts[:, never].sum() / counts.sum()
        why = f"infinite: {share:.2%} of the tokens are words that the source never writes, such as id {never[0]}"
        return Value(value=None, n=len(counts), why=why)
    return _kl(counts, frequencies, np.zeros(len(frequencies), dtype=np.int64), seed)


def rule_kl(counts: Mapping[str, NDArray[np.integer]], shares: Mapping[str, Floats], *, seed: int = _SEED) -> Value:
    """KL(generated ‖ exact) of the alternatives taken at each choice of the grammar, nats a choice.

    Σ over choice points of (share of all choices made there) · KL(alternatives taken ‖ exact shares): the conditional
    divergence of the chain rule (Cover and Thomas 2006, section 2.5). Unlike word frequencies, it sees structure.

    counts: choice point -> [N, A], how often each text took each alternative in its judged part: not in the prompt,
    whose choices are the source's own, and up to the first violation. shares: choice point -> [A], exact. Raises
    InputError where they do not fit.
    """
    for name, taken in counts.items():
        if name not in shares:
            raise InputError(f"rule counts: choice point {name!r} has no exact shares; give those of the same source")
        if taken.ndim != 2 or taken.shape[1:] != shares[name].shape:
            want = f"[N, {len(shares[name])}], a row a text"
            raise InputError(f"rule counts: {name!r} must be {want}, found {list(taken.shape)}; count text by text")
        _check_shares(f"exact shares of {name!r}", shares[name])
    if len({len(taken) for taken in counts.values()}) > 1:
        raise InputError("rule counts: the choice points have different numbers of texts; count all on the same texts")
    if not any(taken.any() for taken in counts.values()):
        return Value(value=None, why="no choice of the grammar was made")
    stacked = np.concatenate(list(counts.values()), axis=1).astype(np.float64)
    exact = np.concatenate([shares[name] for name in counts])
    group = np.repeat(np.arange(len(counts)), [taken.shape[1] for taken in counts.values()])
    if ((stacked.sum(axis=0) > 0) & (exact == 0)).any():
        return Value(value=None, n=len(stacked), why="infinite: an alternative was taken that the source never takes")
    return _kl(stacked, exact, group, seed)


def _kl(counts: Floats, exact: Floats, group: NDArray[np.int64], seed: int) -> Value:
    """Divergence of counts [N, M] from `exact` [M] within the groups [M] of columns, weighted by each group's use."""
    used = counts.sum(axis=0) > 0
    counts, exact, group = counts[:, used], exact[used], np.unique(group[used], return_inverse=True)[1]
    membership = (group[:, None] == np.arange(group.max() + 1)).astype(np.float64)

    def plug_in(pooled: Floats) -> Floats:
        q = _frequencies(pooled)
        of_group = q @ membership
        divergence: Floats = (_x_log_x(q) - q * np.log(exact)).sum(axis=1) - _x_log_x(of_group).sum(axis=1)
        return divergence

    value = max(0.0, float(plug_in(counts.sum(axis=0)[None, :])[0]) - _bias(counts, group))
    if len(counts) < 2:
        return Value(value=value, n=1, why=ONE_TEXT)
    low, high = reflected(counts, plug_in, seed)
    return Value(value=value, low=max(0.0, low), high=max(0.0, high), n=len(counts), level=LEVEL)


def _bias(counts: Floats, group: NDArray[np.int64]) -> float:
    """How much the plug-in divergence is too high, to first order: ½ Σ var(q) / q, less the same of the groups.

    counts: [N, M] of used columns in groups [M]. The second derivatives of Σ q log q are 1 / q. One text's tokens are
    taken as independent.
    """

    def half(columns: Floats) -> float:
        n, total = len(columns), float(counts.sum())
        q = columns.sum(axis=0) / total
        if n < 2:
            return float((1 - q).sum()) / (2 * total)
        residual = columns - counts.sum(axis=1, keepdims=True) * q
        variance = n / (n - 1) * (residual**2).sum(axis=0) / total**2
        return float((variance / q).sum()) / 2

    return half(counts) - half(counts @ (group[:, None] == np.arange(group.max() + 1)).astype(np.float64))


def _frequencies(pooled: Floats) -> Floats:
    """[draws, M], each row divided by its sum. Where few texts have any count, a redrawn sample may have none."""
    frequencies: Floats = pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1.0)
    return frequencies


def _used(counts: Floats) -> Floats:
    return counts[:, counts.sum(axis=0) > 0]


def _check_shares(what: str, shares: Floats) -> None:
    if shares.ndim != 1 or (shares < 0).any() or not math.isclose(float(shares.sum()), 1.0, rel_tol=1e-6):
        raise InputError(f"{what}: give probabilities that sum to 1, found a sum of {float(shares.sum()):.6g}")
