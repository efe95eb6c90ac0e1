"""Replays that fill a window: what counts as a token there, and that nobody observes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dlmbench.bench.opened import OpenCell
from dlmbench.bench.replay import fill_window


def emitted(policy: str, rows: list[list[int]]) -> int:
    opened: Any = SimpleNamespace(
        context=SimpleNamespace(config=SimpleNamespace(eos_token_id=9)), cell=SimpleNamespace(length_policy=policy)
    )
    return OpenCell.emitted(opened, torch.tensor(rows))


@pytest.mark.parametrize(("policy", "count"), [("fixed", 12), ("natural", 2 + 4 + 1)])
def test_tokens_after_eos_are_not_emitted(policy: str, count: int) -> None:
    assert emitted(policy, [[1, 9, 9, 2], [1, 2, 3, 4], [9, 5, 9, 1]]) == count


def test_a_window_is_filled_with_requests_made_before_it() -> None:
    """At least one generation, however short the window; each counted by its tokens."""
    made: list[int] = []
    ran: list[int] = []

    class Opened:
        def request(self, prompt: int, seed: int) -> int:
            assert not ran, "made while the window was running"
            made.append(prompt)
            return prompt

        def run(self, request: int) -> torch.Tensor:
            ran.append(request)
            return torch.zeros(2, 5)

        emitted = staticmethod(torch.Tensor.numel)

    opened: Any = Opened()
    window = fill_window(opened, 0.0)
    assert (window.generations, window.output_tokens, ran) == (1, 10, made[:1])
    assert window.end_s >= window.begin_s
