"""The sentence as a picture: its panels, what is marked, what the caption owes, and what is said without data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlmbench.profiles.store import StoredRun
from dlmbench.profiles.studies import Candidate, DenoisingStep, NoiseLevel, Regeneration, SentenceStudy, Studies
from dlmbench.reports.fig_sentence import MAX_CANDIDATES, sentence_figure
from dlmbench.reports.plotting import Figure, style
from dlmbench.reports.study import Study

WORDS = ("large", "language", "models", "process", "vast", "amounts", "of", "text", ".")


def written(
    order: tuple[int, ...], t: float, words: tuple[str, ...] = WORDS, log_prob: float | None = -15.25
) -> Regeneration:
    """Filled in `order`, each time with `new<position>` at 60 %, the original at 30 % and four others."""
    state = [None if i in order else word for i, word in enumerate(words)]
    steps = []
    for position in order:
        own = tuple(
            ()
            if token is not None
            else tuple(
                Candidate(token=name, probability=p)
                for name, p in ((f"new{i}", 0.6), (words[i], 0.3), ("u", 0.01), ("v", 0.01), ("w", 0.01), ("y", 0.01))
            )
            for i, token in enumerate(state)
        )
        steps.append(DenoisingStep(tokens=tuple(state), candidates=own, committed=(position,)))
        state[position] = f"new{position}"
    tokens = tuple(token or "" for token in state)
    return Regeneration(t=t, seed=7, steps=tuple(steps), tokens=tokens, text=" ".join(tokens), log_prob=log_prob)


def of_sentence(*again: Regeneration, words: tuple[str, ...] = WORDS) -> SentenceStudy:
    levels = (NoiseLevel(t=0, tokens=words), *(NoiseLevel(t=r.t, tokens=r.steps[0].tokens) for r in again))
    context = "this lesson is about computers."
    return SentenceStudy(text=" ".join(words), context=context, tokens=words, levels=levels, regenerations=again)


def draw(stored: StoredRun, folder: Path, sentence: SentenceStudy | None, why: str | None = None) -> Figure:
    own = Studies(pair="small", sentence=sentence, why={} if why is None else {"sentence": why})
    studies = {} if sentence is None and why is None else {"small": own}
    with style():
        return sentence_figure(Study(replace(stored, studies=studies)), folder)


@pytest.fixture(scope="module")
def drawn(study: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> Figure:
    again = (written((4, 1, 7), 0.5, log_prob=None), written(tuple(range(9)), 1.0))
    return draw(study, tmp_path_factory.mktemp("sentence"), of_sentence(*again))


def test_a_panel_of_levels_and_one_for_each_step_of_the_level_that_fits(drawn: Figure) -> None:
    assert drawn.skipped is None
    assert drawn.svg.count("<svg ") == 1 + 3
    for text in ("t = 0.5, step 1 of 3", "t = 0.5, step 3 of 3", ">t = 1<", "not valid", "-15.2 nats"):
        assert text in drawn.svg
    assert "t = 1, step" not in drawn.svg


def test_what_a_step_draws_is_outlined_and_every_colour_is_themed(drawn: Figure) -> None:
    panels = drawn.svg.split("<svg ")[1:]
    outline = "stroke: var(--c-diffusion)"
    assert [panel.count(outline) for panel in panels] == [0, 1, 1, 1]
    assert "#" not in drawn.svg.replace("url(#", "").replace('href="#', ""), "a fixed colour would not follow the theme"


def test_a_step_shows_the_candidates_of_positions_still_masked(drawn: Figure) -> None:
    panels = drawn.svg.split("<svg ")[1:]
    assert [panel.count(">60 %<") for panel in panels] == [0, 3, 2, 1]
    assert ">new4<" in panels[2], "drawn at the first step"
    assert ">y<" not in drawn.svg, f"the {MAX_CANDIDATES + 1}th candidate, which nothing drew"


def test_the_words_beside_the_picture_say_what_it_shows(drawn: Figure) -> None:
    assert drawn.sentence == (
        "At t = 0.5, 3 of 9 tokens are masked; 3 denoising steps make “large language models process vast amounts of "
        "text .” into “large new1 models process new4 amounts of new7 .” (not valid: the source cannot write it)."
    )
    for owed in ("temperature 1", "seed 7", "pair small", "“this lesson is about computers.”", "under the source"):
        assert owed in drawn.caption
    assert "t = 0.5: large [mask] models process [mask] amounts of [mask] ." in drawn.alt
    assert "step 1 draws new4 for vast out of new4 60 %, vast 30 %" in drawn.alt


def test_what_does_not_fit_is_counted(study: StoredRun, tmp_path: Path) -> None:
    figure = draw(study, tmp_path, of_sentence(written(tuple(range(9)), 1.0)))
    assert figure.svg.count("<svg ") == 1 + 6
    assert "3 more steps are left to the table." in figure.caption
    assert "3 more positions are left to the table." in figure.caption


def test_hostile_and_endless_tokens_stay_inside_the_panel(study: StoredRun, tmp_path: Path) -> None:
    words = ("\x1b[2J", "", "$\\frac$", "<b>" * 30, *("word" * 9 for _ in range(30)))
    figure = draw(study, tmp_path, of_sentence(written((0, 1, 3), 0.5, words), words=words))
    assert "\x1b" not in figure.svg + figure.alt + figure.caption + figure.sentence
    assert "<b>" not in figure.svg
    assert "…" in figure.svg


def test_without_a_study_the_reader_is_told_why_or_what_makes_one(study: StoredRun, tmp_path: Path) -> None:
    assert "--weights trained" in (draw(study, tmp_path, None).skipped or "")
    told = draw(study, tmp_path, None, "sedd: needs a noise level").skipped
    assert told == "No sentence was written again: sedd: needs a noise level."
    assert list(tmp_path.iterdir()) == []
