"""The learning rate's course, and what a recipe refuses."""

import pytest
from pydantic import ValidationError

from dlmbench.models.training.recipe import Recipe


def test_trapezoid() -> None:
    recipe = Recipe(steps=100, warmup=4, decay=0.5, lr=1.0)
    # 1/5, 2/5, … to 1 after the warm-up; level; the last 50 steps fall from 50/50 to 1/50.
    assert [recipe.lr_at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert recipe.lr_at(50) == 1.0
    assert [recipe.lr_at(step) for step in (75, 98, 99)] == pytest.approx([0.5, 0.04, 0.02])


def test_a_short_training_still_warms_up_and_cools_down() -> None:
    recipe = Recipe(steps=4, warmup=100, decay=1.0, lr=1.0)
    assert [recipe.lr_at(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 0.5, 0.25])


def test_tokens() -> None:
    assert Recipe(steps=3, batch=5, length=16).tokens == 240


def test_length_must_hold_whole_blocks() -> None:
    with pytest.raises(ValidationError, match="no whole number of blocks of 8"):
        Recipe(length=100)
