"""All metrics together: declared, and only those that the given parts allow."""

import numpy as np

from dlmbench.profiles.metrics import METRICS, declared
from dlmbench.profiles.quality import SourceFacts, Texts, Verdict, evaluate

IDS = np.random.default_rng(0).integers(0, 5, size=(6, 12))
TEXTS = Texts(IDS, 2, np.full(6, 10))
FACTS = SourceFacts(1.5, np.full(5, 0.2), {"a": np.array([0.5, 0.5])})
VERDICT = Verdict(np.full((6, 12), -1.5), np.full(6, 12), np.zeros(6, dtype=int), ("none", "pair", "other"))


def test_every_name_is_declared_as_quality() -> None:
    counts = {"a": np.random.default_rng(1).integers(0, 4, size=(6, 2))}
    found = evaluate(
        TEXTS, VERDICT, FACTS, rule_counts=counts, judge_log_prob=VERDICT.log_prob, distinct_tokens=20
    ).metrics
    assert {declared(name).kind for name in found} == {"quality"}
    left = {"quality.heldout_nats", "quality.heldout_mc_nats"}  # of a model
    left |= {"quality.judge_ppl", "quality.cache_validity_change"}  # of another model, and across two cells
    assert {name.partition("[")[0] for name in found} | left == {n for n in METRICS if n.startswith("quality.")}
    assert {name for name in found if "[" in name} == {"quality.violations[pair]", "quality.violations[other]"}


def test_every_value_has_an_interval_a_reason_or_is_exact() -> None:
    for name, value in evaluate(TEXTS, VERDICT, FACTS, judge_log_prob=VERDICT.log_prob).metrics.items():
        if value.low is None:
            assert value.why or name in ("quality.source_entropy", "quality.source_unigram_entropy"), name
        else:
            assert value.value is not None
            assert value.high is not None
            assert value.low <= value.value <= value.high, name
            assert (value.level, value.n) == (0.95, 6), name


def test_a_corpus_without_an_oracle_has_what_needs_none() -> None:
    found = evaluate(TEXTS, distinct_tokens=20)
    assert set(found.metrics) == {"quality.unigram_entropy", *(f"quality.distinct_{n}" for n in (1, 2, 3))}
    assert found.flattered is None


def test_equal_seeds_give_equal_numbers() -> None:
    assert evaluate(TEXTS, VERDICT, FACTS).metrics == evaluate(TEXTS, VERDICT, FACTS).metrics
