"""The sentence study: masks nest, opening and end stay, a step commits one position by the network's own law."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.sentence import CONTEXT, SENTENCE, sentence_study
from dlmbench.models.pairs import load_pair
from dlmbench.models.source import Source, embedded_source
from dlmbench.models.weights import random_network
from dlmbench.profiles.studies import Regeneration, SentenceStudy

WORDS = ["large", "language", "models", "process", "vast", "amounts", "of", "text", "."]


class Scripted:
    """A network of one law at every position: `weights` by word, all else impossible but for the mask, which it likes
    best. `seen` are the ids of its forwards."""

    device = torch.device("cpu")

    def __init__(self, source: Source, weights: dict[str, float]) -> None:
        self.seen: list[list[int]] = []
        self.law = torch.full((source.vocab_size,), -math.inf)
        for word, weight in weights.items():
            self.law[source.tokenizer.encode(word)] = math.log(weight)
        assert source.tokenizer.mask_id is not None
        self.law[source.tokenizer.mask_id] = 50.0

    def rotary(self, positions: int) -> None:
        assert positions == 16

    def conditioning(self, sigma: None) -> None:
        return None

    def trunk(self, ids: Tensor, *, mask: str, condition: None) -> Tensor:
        assert mask == "bidirectional"
        self.seen.append(ids[0].tolist())
        return ids[..., None]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.law.expand(len(hidden), -1)


class Reciting(Scripted):
    """Certain of the original word at every position."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, {"text": 1})
        self.document = source.tokenizer.encode(f"{CONTEXT} {SENTENCE}")

    def trunk(self, ids: Tensor, *, mask: str, condition: None) -> Tensor:
        super().trunk(ids, mask=mask, condition=condition)
        return torch.arange(ids.shape[1])[None, :, None]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.full((len(hidden), len(self.law)), -math.inf)
        logits[range(len(hidden)), [self.document[p] for p in hidden[:, 0].tolist()]] = 0.0
        return logits


@pytest.fixture(scope="module")
def source() -> Source:
    return embedded_source()


@pytest.fixture(scope="module")
def study(source: Source) -> SentenceStudy:
    """By a network of the pair's shape, with random weights."""
    backbone = load_pair("small").diffusion.backbone
    return sentence_study(random_network(backbone, 0, torch.float32, "cpu"), source, seed=3)


def scripted(source: Source, weights: dict[str, float], seed: int = 0, top: int = 5) -> Regeneration:
    network = Scripted(source, weights)
    return sentence_study(network, source, seed=seed, levels=(1.0,), top=top).regenerations[0]  # type: ignore[arg-type]


def test_masks_grow_with_the_noise_from_none_to_all(study: SentenceStudy) -> None:
    assert list(study.tokens) == WORDS
    assert [level.t for level in study.levels] == [0, 0.25, 0.5, 0.75, 1]
    hidden = [{i for i, token in enumerate(level.tokens) if token is None} for level in study.levels]
    assert hidden[0] == set()
    assert all(lower <= higher for lower, higher in pairwise(hidden))
    assert hidden[-1] == set(range(9))
    for level in study.levels:
        assert all(token in (None, word) for token, word in zip(level.tokens, WORDS, strict=True))


def test_a_step_commits_one_masked_position_and_changes_nothing_else(study: SentenceStudy) -> None:
    assert [r.t for r in study.regenerations] == [0.25, 0.5, 0.75, 1]
    for level, again in zip(study.levels[1:], study.regenerations, strict=True):
        assert len(again.steps) == level.tokens.count(None)
        states = [step.tokens for step in again.steps] + [again.tokens]
        assert states[0] == level.tokens
        for step, after in zip(again.steps, states[1:], strict=True):
            (position,) = step.committed
            assert step.tokens[position] is None
            assert after[position] is not None
            assert [i for i in range(9) if step.tokens[i] != after[i]] == [position]


def test_candidates_stand_at_masked_positions_likeliest_first_with_what_was_drawn(study: SentenceStudy) -> None:
    for again in study.regenerations:
        states = [step.tokens for step in again.steps] + [again.tokens]
        for step, after in zip(again.steps, states[1:], strict=True):
            for position, (token, own) in enumerate(zip(step.tokens, step.candidates, strict=True)):
                assert bool(own) == (token is None)
                chances = [candidate.probability for candidate in own]
                assert chances == sorted(chances, reverse=True)
                assert sum(chances) <= 1 + 1e-6
                assert len(own) in ((5, 6) if position in step.committed else (0, 5))
                if position in step.committed:
                    assert after[position] in [candidate.token for candidate in own]


def test_the_probabilities_are_the_softmax_without_the_mask(source: Source) -> None:
    # 3 : 1 among two words is 0.75 and 0.25, however much the network likes its mask.
    first = scripted(source, {"text": 3, "data": 1}).steps[0]
    for own in first.candidates:
        assert [candidate.token for candidate in own] == ["text", "data"]
        assert [candidate.probability for candidate in own] == pytest.approx([0.75, 0.25])


def test_tokens_are_drawn_by_that_law_at_positions_in_uniform_order(source: Source) -> None:
    # 60 sentences of 9 draws: the share of 3/4 has mean 405 of 540, standard deviation sqrt(540 * 3/16) = 10.1.
    runs = [scripted(source, {"text": 3, "data": 1}, seed) for seed in range(60)]
    drawn = Counter(token for run in runs for token in run.tokens)
    assert set(drawn) == {"text", "data"}
    assert abs(drawn["text"] - 405) < 4.5 * 10.1
    # A position's mean place in the order is 4 with standard deviation sqrt(80 / 12 / 60) = 0.33.
    for position in range(9):
        places = [[step.committed[0] for step in run.steps].index(position) for run in runs]
        assert abs(np.mean(places) - 4) < 4.5 * 0.33


def test_a_token_drawn_from_below_the_top_follows_it(source: Source) -> None:
    many = dict.fromkeys(("text", "data", "language", "words", "writing", "stone", "lamp", "apple"), 1.0)
    steps = [step for seed in range(5) for step in scripted(source, many, seed, top=2).steps]
    lengths = Counter(len(step.candidates[step.committed[0]]) for step in steps)
    # 6 of the 8 words are below the two shown.
    assert set(lengths) == {2, 3}
    assert lengths[3] > lengths[2]


def test_opening_end_and_what_stands_are_given_to_every_forward(source: Source) -> None:
    network = Scripted(source, {"text": 1})
    sentence_study(network, source, seed=5, levels=(0.5,))  # type: ignore[arg-type]
    opening, ids = source.tokenizer.encode(CONTEXT), source.tokenizer.encode(SENTENCE)
    masked = [position for position, token in enumerate(network.seen[0]) if token == source.tokenizer.mask_id]
    assert len(network.seen) == len(masked) > 0
    for seen in network.seen:
        assert seen[: len(opening)] == opening
        assert seen[-1] == source.tokenizer.eos_id
        for position, token in enumerate(ids, start=len(opening)):
            assert position in masked or seen[position] == token


def test_the_log_probability_is_the_whole_documents_under_the_source(source: Source) -> None:
    recited = sentence_study(Reciting(source), source, seed=0)  # type: ignore[arg-type]
    document = [*source.tokenizer.encode(f"{CONTEXT} {SENTENCE}"), source.tokenizer.eos_id]
    # Word after word, by the source's next-word distribution rather than its score.
    expected = sum(
        math.log(source.next_distribution(document[:i])[token]) for i, token in enumerate(document) if token is not None
    )
    for again in recited.regenerations:
        assert again.text == "large language models process vast amounts of text."
        assert again.log_prob == pytest.approx(expected)
    assert scripted(source, {"text": 1}).log_prob is None, "nine times the same word is no document"


def test_a_seed_repeats_and_no_level_depends_on_the_others(source: Source, study: SentenceStudy) -> None:
    backbone = load_pair("small").diffusion.backbone
    network = random_network(backbone, 0, torch.float32, "cpu")
    alone = sentence_study(network, source, seed=3, levels=(0.75,))
    assert alone.regenerations[0] == study.regenerations[2]
    assert sentence_study(network, source, seed=4).regenerations != study.regenerations


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("large language models process vast text of text .", "from 'text' on"),
        ("large language models process vast amounts", "and end there"),
        ("", "no tokens"),
    ],
)
def test_what_the_source_cannot_write_is_refused_in_one_line(source: Source, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        sentence_study(Scripted(source, {"text": 1}), source, seed=0, text=text)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
