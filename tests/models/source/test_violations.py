"""One text a kind of violation, written by hand: the word that breaks it, and what it breaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dlmbench.models.source import VIOLATIONS, Source

SEA = "this tale is about sailors ."
SKY = "this tale is about stars ."

# The text, with the first impossible word between asterisks.
BROKEN = {
    "agreement": [
        f"{SKY} the stars that the pilot sees *shines .",
        f"{SKY} the star near the tall moons *shine .",
        f"{SKY} the star ( a moon [ most planets ] ) *are lost .",
        f"{SKY} the stars that the pilot *see shine .",
        f"{SKY} each *stars shines .",
        f"{SKY} these strange *star shine .",
        f"{SKY} both the moon and the star *shines .",
        "this tale is about computers . large language models *processes vast amounts of text .",
    ],
    "pair": [
        f"{SEA} in new *francisco , the ship sinks .",
        f"{SEA} in san *york , the ship sinks .",
        f"{SEA} from hong *angeles to las vegas , the ship sinks .",
        f"{SEA} the ship sees the boat with wind and *anchor .",
        "this tale is about cooks . salt and *butter suit milk and honey .",
    ],
    "bracket": [
        f"{SEA} the ship ( a boat *] sinks .",
        f"{SEA} the ship ( a boat [ the gull *) ] sinks .",
        f"{SEA} the ship ( a boat *sinks .",
        f"{SEA} the ship ( a boat *.",
        f"{SEA} the ship *) sinks .",
        f"{SEA} anna thinks : “ the ship sinks *.",
        f"{SEA} the ship ( a boat [ a boat [ a boat [ a boat *( a boat ) ] ] ] ) sinks .",
        f"{SEA} anna said two words : “ river stone *lamp",
    ],
    "copy": [
        f"{SEA} anna said two words : “ river stone ” and ben repeated : “ river *lamp ” .",
        f"{SEA} anna said two words : “ river stone ” and ben repeated : “ *stone river ” .",
        f"{SEA} anna said two words : “ river stone ” and ben repeated : “ river *” .",
    ],
    "permutation": [
        f"{SEA} count three things : river , stone , lamp ; now backward : *river , stone , lamp .",
        f"{SEA} count three things : river , stone , lamp ; now backward : lamp , *river , stone .",
        f"{SEA} shuffle three things : river , stone , lamp ; now mixed : lamp , *lamp , stone .",
        f"{SEA} shuffle three things : river , stone , lamp ; now mixed : lamp , *key , stone .",
        f"{SEA} shuffle three things : river , *river , lamp ; now mixed : lamp , key , stone .",
    ],
    "topic": [
        f"{SEA} the ship near the *comet sinks .",
        f"{SEA} the ship *shines .",
        f"{SEA} the ships see the boat with *thunder and lightning .",
    ],
    "other": [
        "*the ship sinks .",
        f"{SEA} the ship *the boat .",
        f"{SEA} the *and ship sinks .",
        f"{SEA} shuffle three things : river , *ship , lamp ; now mixed : lamp , key , stone .",
        f"{SEA} the ship sinks *the",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in BROKEN.items() for text in texts])
def test_a_broken_constraint_is_named_at_its_first_word(
    source: Source, ids_of: Callable[[str], np.ndarray], kind: str, text: str
) -> None:
    before, _ = text.split("*")
    scores = source.score(ids_of(text.replace("*", "")))
    assert scores.valid_until.tolist() == [len(before.split())]
    assert VIOLATIONS[scores.violation[0]] == kind


@pytest.mark.parametrize(
    "text",
    [
        f"{SKY} the stars that the pilot sees shine .",
        f"{SKY} the star near the tall moons shines .",
        f"{SKY} the star ( a moon [ most planets ] ) is lost .",
        f"{SEA} in new york , the ship sinks .",
        f"{SEA} the ship ( a boat [ a boat [ a boat ( a boat ) ] ] ) sinks .",
        f"{SEA} shuffle three things : river , stone , lamp ; now mixed : lamp , stone , river .",
        f"{SEA} count three things : river , stone , lamp ; now backward : lamp , stone , river . / {SKY} the",
    ],
)
def test_what_is_right_is_no_violation(source: Source, ids_of: Callable[[str], np.ndarray], text: str) -> None:
    scores = source.score(ids_of(text))
    assert scores.valid.all()
    assert scores.violation.tolist() == [0]


def test_mask_and_an_early_end_are_named(source: Source, ids_of: Callable[[str], np.ndarray]) -> None:
    mask = np.append(ids_of(f"{SEA} the ship"), source.tokenizer.mask_id)[None]
    assert VIOLATIONS[source.score(mask).violation[0]] == "other"
    assert VIOLATIONS[source.score(ids_of(f"{SEA} the ship ( a boat /")).violation[0]] == "bracket"


def test_independent_draws_of_pairs_mix_them(source: Source) -> None:
    """What the grammar is for: two words, each drawn by its own probability, match with chance sum of p squared.

    Places: p of the k-th of eight is 1/(k + 2) over the sum, so that independent halves fit in 0.144 of all cases.
    """
    weights = np.array([1 / (k + 2) for k in range(1, 9)])
    chance = float(((weights / weights.sum()) ** 2).sum())
    prefix = source.tokenizer.encode("this story is about sailors. in")
    first = source.next_distribution(prefix)
    second = np.zeros(source.vocab_size)
    for word in np.flatnonzero(first):
        second += first[word] * source.next_distribution([*prefix, int(word)])
    fitting = sum(
        first[word] * second[source.next_distribution([*prefix, int(word)]) > 0].sum() for word in np.flatnonzero(first)
    )
    assert fitting == pytest.approx(chance)
    assert chance < 0.15


def test_counts_of_kinds(source: Source, ids_of: Callable[[str], np.ndarray]) -> None:
    rows = [ids_of(f"{SEA} {text}")[0] for text in ("in new francisco", "in san york", "the ship )", "the ship sinks")]
    length = min(map(len, rows))
    counts = source.score(np.array([row[:length] for row in rows])).violations
    assert counts == dict.fromkeys(VIOLATIONS[1:], 0) | {"pair": 2, "bracket": 1}
