"""The sentence study as terminal lines: none wider than asked, candidates and verdicts readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rich.cells import cell_len

from dlmbench.profiles.studies import Candidate, DenoisingStep, NoiseLevel, Regeneration, SentenceStudy
from dlmbench.reports.sentence import detailed, drawn, percent, sentence_lines, verdict

HOSTILE = ("\x1b[2J", "", "日本語日本語日本語", "[red]evil[/red]", "x" * 90)


def candidates(*likely: tuple[str, float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(token=token, probability=probability) for token, probability in likely)


def regeneration(
    tokens: Sequence[str], order: Sequence[int], t: float, log_prob: float | None = -12.34
) -> Regeneration:
    """Masked at `order` and filled in that order with `tokens`, always before one other candidate."""
    steps: list[DenoisingStep] = []
    state = [None if i in order else token for i, token in enumerate(tokens)]
    for position in order:
        own = [candidates((tokens[i], 0.75), ("other", 0.2496)) if s is None else () for i, s in enumerate(state)]
        steps.append(DenoisingStep(tokens=tuple(state), candidates=tuple(own), committed=(position,)))
        state[position] = tokens[position]
    text = " ".join(tokens)
    return Regeneration(t=t, seed=7, steps=tuple(steps), tokens=tuple(tokens), text=text, log_prob=log_prob)


def study(*again: Regeneration, tokens: Sequence[str] = ("big", "models", "read", "text", ".")) -> SentenceStudy:
    levels = [NoiseLevel(t=0, tokens=tuple(tokens))]
    levels += [NoiseLevel(t=r.t, tokens=r.steps[0].tokens if r.steps else r.tokens) for r in again]
    return SentenceStudy(
        text=" ".join(tokens), context="this lesson :", tokens=tuple(tokens), levels=tuple(levels), regenerations=again
    )


def lines(of: SentenceStudy, width: int, masks: bool = True) -> list[str]:
    return [line.plain.rstrip() for line in sentence_lines(of, width, masks=masks)]


TWO = study(
    regeneration(["big", "models", "read", "data", "."], [3], 0.25),
    regeneration(["huge", "models", "read", "words", "."], [0, 3], 0.5, log_prob=None),
)


def test_every_level_has_its_masks_its_result_and_the_verdict() -> None:
    assert lines(TWO, 120)[1:6] == [
        "t = 0     big models read text .",
        "t = 0.25  big models read ▒▒▒▒ .",
        "       →  big models read data . (valid, log p = -12.3 nats)",
        "t = 0.5   ▒▒▒ models read ▒▒▒▒ .",
        "       →  huge models read words . (not valid: the source cannot write it)",
    ]
    assert "seed 7" in lines(TWO, 120)[0]
    assert "this lesson :" in lines(TWO, 120)[0]


def test_masks_on_the_screen_already_are_not_repeated() -> None:
    assert lines(TWO, 120, masks=False)[1:3] == [
        "t = 0.25  big models read data . (valid, log p = -12.3 nats)",
        "t = 0.5   huge models read words . (not valid: the source cannot write it)",
    ]


def test_a_step_lists_the_candidates_of_each_masked_position_and_brackets_what_it_draws() -> None:
    shown = lines(TWO, 80)
    assert shown[shown.index("step 1/2  ▒▒▒ models read ▒▒▒▒ .") :] == [
        "step 1/2  ▒▒▒ models read ▒▒▒▒ .",
        "  big     [huge 75 %]   other 25 %",
        "  text    words 75 %    other 25 %",
        "step 2/2  huge models read ▒▒▒▒ .",
        "  text    [words 75 %]  other 25 %",
        "       →  huge models read words . (not valid: the source cannot write it)",
    ]


@pytest.mark.parametrize("width", [10, 24, 40, 80, 200])
def test_no_line_is_wider_than_the_screen_whatever_the_tokens(width: int) -> None:
    hostile = study(regeneration(HOSTILE, [4, 0, 2, 3, 1], 1.0), tokens=HOSTILE)
    for of in (hostile, TWO):
        for line in sentence_lines(of, width):
            assert line.cell_len <= width
            assert "\x1b" not in line.plain
    text = "".join(lines(hostile, width))
    assert "[red]evil[/red]" in "".join(text.split()), "markup is text"


def test_the_detailed_level_fills_most_positions_that_the_screen_has_room_for() -> None:
    tokens = list("abcdefghi")
    some = [regeneration(tokens, list(range(n)), n / 10) for n in (0, 1, 4, 6, 9)]
    of = study(*some, tokens=tokens)
    assert detailed(of) is some[3]
    assert detailed(of, 5) is some[2]
    assert detailed(study(some[4], tokens=tokens), 5) is some[4]
    assert detailed(study(some[0], tokens=tokens)) is None


def test_what_a_step_draws_is_read_off_the_state_after_it() -> None:
    again = TWO.regenerations[1]
    assert [drawn(again, step) for step in (0, 1)] == [{0: "huge"}, {3: "words"}]


def test_a_study_without_steps_or_levels_is_still_shown() -> None:
    empty = SentenceStudy(text="", context="", tokens=(), levels=(), regenerations=())
    assert all(cell_len(line) <= 80 for line in lines(empty, 80))


@pytest.mark.parametrize(
    ("probability", "told"),
    [(0, "0 %"), (0.0004, "<0.1 %"), (0.004, "0.4 %"), (0.0099, "1.0 %"), (0.25, "25 %"), (0.994, "99 %"),
     (0.9996, ">99 %"), (1, "100 %")],
)  # fmt: skip
def test_a_probability_is_rounded_to_nothing_and_to_all_only_where_it_is(probability: float, told: str) -> None:
    assert percent(probability) == told


def test_the_verdict_says_whether_the_source_can_write_it() -> None:
    assert [verdict(r) for r in TWO.regenerations] == [
        "valid, log p = -12.3 nats",
        "not valid: the source cannot write it",
    ]
