"""Tokens a second on one core, with --benchmark-only; nothing passes or fails by the clock.

The score is wished to reach 100,000 and the stream 200,000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dlmbench.models.source import Source, embedded_source


@pytest.mark.parametrize("call", ["stream", "texts", "score", "rule_counts", "entropy"])
def test_tokens_a_second(benchmark: Any, source: Source, call: str) -> None:
    ids = source.texts(128, 256, 0)
    calls: dict[str, Callable[[], object]] = {
        "stream": lambda: source.stream(ids.size, 1),
        "texts": lambda: source.texts(*ids.shape, 1),
        "score": lambda: source.score(ids),
        "rule_counts": lambda: source.rule_counts(ids),
        "entropy": lambda: source.entropy(ids),
    }
    benchmark(calls[call])
    if benchmark.stats:  # none under --benchmark-disable
        benchmark.extra_info["tokens_per_second"] = ids.size / benchmark.stats.stats.median


def test_cold_start(benchmark: Any) -> None:
    """Seconds from nothing (the grammar read and compiled) to the score of a first text."""
    made = benchmark(embedded_source.__wrapped__)
    assert made.score(made.texts(1, 64, 0)).valid.all()
