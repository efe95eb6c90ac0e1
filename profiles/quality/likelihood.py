"""What a model says of texts: perplexity of generated ones under a judge, likelihood of held-out ones under itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import InputError
from ..record import Value
from .intervals import LEVEL, ratio, t_quantile, transformed
from .texts import Floats, Texts


def gen_ppl(texts: Texts, judge_log_prob: Floats) -> Value:
    """Generative perplexity: exp of the mean nats per judged token of all texts under a judge.

    judge_log_prob: [N, S] nats of each token given all before it. Three definitions are published. This is the one of
    MDLM (Sahoo et al. 2024): one exponential over the whole corpus, the first EOS counted; here on the generated ids,
    without decoding and tokenising again. SEDD (Lou et al. 2024) averages one perplexity a text, never lower at equal
    lengths; BD3LM (Arriola et al. 2025) leaves EOS out and slides a window. Low temperature lowers it: see `flattered`.

    Null with a reason where the judge holds a token impossible. Raises InputError for what is no log-probability.
    """
    if judge_log_prob.shape != texts.ids.shape:
        want, found = list(texts.ids.shape), list(judge_log_prob.shape)
        raise InputError(f"judge: log-probabilities must be {want} like the texts, found {found}")
    if not texts.tokens:
        return Value(value=None, n=len(texts.ids), why="no token was emitted")
    judged = texts.judged
    # A model's float32 log-softmax may exceed 0 by a rounding.
    if not (judge_log_prob[judged] <= 1e-4).all():
        raise InputError("judge: a judged token's log-probability is NaN or above 0; give natural logarithms")
    impossible = int(np.isneginf(judge_log_prob[judged]).sum())
    if impossible:
        why = f"infinite: the judge holds {impossible} of {texts.tokens} tokens impossible"
        return Value(value=None, n=len(texts.ids), why=why)
    nats = -np.where(judged, judge_log_prob, 0.0).sum(axis=1)
    return transformed(ratio(nats, texts.emitted.astype(np.float64)), _exp)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Nats a token on texts that training has not seen: exact (AR), or an upper bound estimated by draws (diffusion).

    The interval of `nats` is over texts. `monte_carlo_error` is the standard error, nats a token, that the draws of
    noise leave on these texts (0 where exact): what remains of it shrinks with more draws, not with more texts.
    """

    nats: Value
    exact: bool
    monte_carlo_error: float
    draws: int


def heldout(nats: Floats, tokens: NDArray[np.integer], *, exact: bool) -> HeldOut:
    """Held-out likelihood from nats [D, N] of each text in each independent draw, and tokens [N] of each text.

    Exact: -log p by the chain rule, D = 1. Bound: the NELBO or score-entropy bound, D at least 2. The value is the mean
    over draws of Σ nats / Σ tokens. Its interval over texts includes the draws' noise, since that is independent from
    text to text; the noise alone is `monte_carlo_error`, standard deviation over draws / sqrt(D).
    Raises InputError where the shapes or draws do not fit.
    """
    draws = len(nats)
    if nats.ndim != 2 or nats.shape[1:] != tokens.shape or not tokens.size or (tokens < 1).any():
        raise InputError(f"held-out: nats must be [draws, N], tokens [N] from 1 on; found {nats.shape}, {tokens.shape}")
    if not np.isfinite(nats).all():
        raise InputError("held-out: a text's nats are not finite; check the checkpoint and its vocabulary")
    if exact != (draws == 1):
        expected = "exactly one pass" if exact else "two or more draws, to know their error"
        raise InputError(f"held-out: {'an exact value' if exact else 'a bound'} needs {expected}, found {draws}")
    per_draw = nats.sum(axis=1) / tokens.sum()
    error = 0.0 if exact else float(per_draw.std(ddof=1)) / math.sqrt(draws)
    return HeldOut(ratio(nats.mean(axis=0), tokens.astype(np.float64)), exact, error, draws)


def heldout_from_errors(
    nats: float, text_error: float, monte_carlo_error: float, *, texts: int, draws: int, exact: bool
) -> HeldOut:
    """The same from a training run's summary: mean nats a token and the two standard errors over `texts` texts."""
    half = t_quantile(texts - 1) * text_error if texts > 1 else None
    if half is None:
        return HeldOut(Value(value=nats, n=texts, why="one text: no interval"), exact, monte_carlo_error, draws)
    value = Value(value=nats, low=nats - half, high=nats + half, n=texts, level=LEVEL)
    return HeldOut(value, exact, monte_carlo_error, draws)


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
