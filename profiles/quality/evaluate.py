"""All quality metrics of one setting's texts at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..record import Reason, Value
from .diversity import TOKENS, distinct_n
from .flattery import flattered
from .likelihood import gen_ppl
from .oracle import cross_entropy, cross_entropy_gap, valid_prefix, validity, violation_shares
from .texts import Floats, Texts, Verdict
from .words import entropy_of, rule_kl, unigram_entropy, word_kl


@dataclass(frozen=True, slots=True, eq=False)
class SourceFacts:
    """What is exactly known of the source: nats a token, word frequencies [V], choice -> shares of alternatives."""

    entropy_rate: float
    word_frequencies: Floats
    rule_shares: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quality:
    """Metric name -> value, as declared in `profiles.metrics`; `flattered` says why likelihood misleads, if it does.

    A violation's kind stands in brackets, as in `quality.violations[agreement]`.
    """

    metrics: Mapping[str, Value]
    flattered: Reason | None


def evaluate(
    texts: Texts,
    verdict: Verdict | None = None,
    source: SourceFacts | None = None,
    *,
    rule_counts: Mapping[str, NDArray[np.integer]] | None = None,
    judge_log_prob: Floats | None = None,
    source_unigram: Value | float | None = None,
    distinct_tokens: int = TOKENS,
    vocab_size: int | None = None,
) -> Quality:
    """Every metric that what is given allows; a user's own corpus has neither verdict nor source.

    rule_counts: see `words.rule_kl`. judge_log_prob: [N, S]. source_unigram: the unigram entropy of the source's own
    texts behind the same prompts, to be held against instead of the exact one of endless texts. vocab_size: needed
    only where there is no source. Raises InputError where the parts do not fit each other.
    """
    size = len(source.word_frequencies) if source else vocab_size or int(texts.ids.max()) + 1
    found = {"quality.unigram_entropy": unigram_entropy(texts, size)}
    found |= {f"quality.distinct_{n}": distinct_n(texts, n, tokens=distinct_tokens) for n in (1, 2, 3)}
    if judge_log_prob is not None:
        found["quality.gen_ppl"] = gen_ppl(texts, judge_log_prob)
    if verdict is not None:
        found["quality.validity"] = validity(texts, verdict)
        found["quality.valid_prefix"] = valid_prefix(texts, verdict)
        found |= {f"quality.violations[{kind}]": share for kind, share in violation_shares(texts, verdict).items()}
        found["quality.cross_entropy"] = cross_entropy(texts, verdict)
    if source is not None:
        found["quality.word_kl"] = word_kl(texts, source.word_frequencies)
        found["quality.source_entropy"] = Value(value=source.entropy_rate)
        found["quality.source_unigram_entropy"] = Value(value=entropy_of(source.word_frequencies))
        if rule_counts is not None:
            found["quality.rule_kl"] = rule_kl(rule_counts, source.rule_shares)
    reason = None
    if verdict is not None and source is not None:
        found["quality.cross_entropy_gap"] = cross_entropy_gap(texts, verdict, source.entropy_rate)
        reason = flattered(
            found["quality.cross_entropy"],
            found["quality.cross_entropy_gap"],
            found["quality.unigram_entropy"],
            found["quality.source_unigram_entropy"] if source_unigram is None else source_unigram,
            word_kl=found["quality.word_kl"],
        )
    return Quality(found, reason)
