"""The lesson's sentence, masked at rising noise and written again with what else could stand there.

    large language models process vast amounts of text.   →   giant neural networks read large volumes of words.

Every word of it is one of several that the source could have chosen. The network sees a whole document: an opening that
says what it is about, the sentence, and an EOS; opening and EOS are never masked. The EOS is what makes the rest a
document: without it the network could begin a longer sentence, or another one, that stops in its middle.

Positions are committed one a step, in an order drawn uniformly, at temperature 1: T is the number of masked positions,
so that no step draws two words that decide each other (MDLM's sampler in the limit of many steps: Sahoo et al. 2024;
Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic…", draw the order likewise).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import InputError
from ..models.draws import ExactDraws
from ..models.network import Network
from ..models.source import Source
from ..models.training.data import seed_of
from ..profiles.studies import Candidate, DenoisingStep, NoiseLevel, Regeneration, SentenceStudy

CONTEXT = "this lesson is about computers ."
SENTENCE = "large language models process vast amounts of text ."
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def sentence_study(
    network: Network,
    source: Source,
    *,
    seed: int,
    levels: Sequence[float] = LEVELS,
    top: int = 5,
    text: str = SENTENCE,
) -> SentenceStudy:
    """Mask `text` at each of `levels`, and write it again from each above 0.

    `network` is bidirectional, needs no noise level and speaks the source's words. A step records each masked
    position's `top` likeliest tokens; one that is drawn from below them follows them, so that no drawn token is without
    its probability. The same `seed` masks and draws the same, and no level's draws depend on the others. Raises
    InputError where the source cannot write `text` behind the opening.
    """
    context, ids = source.tokenizer.encode(CONTEXT), source.tokenizer.encode(text)
    eos_id = source.tokenizer.eos_id
    assert eos_id is not None
    _check(source, context, ids, eos_id)
    uniforms = position_uniforms(len(ids), seed)
    words = _words(source, ids)
    masks = {t: [u < t for u in uniforms] for t in levels}
    return SentenceStudy(
        text=source.tokenizer.decode(ids),
        context=source.tokenizer.decode(context),
        tokens=words,
        levels=tuple(
            NoiseLevel(t=t, tokens=tuple(None if m else w for w, m in zip(words, masked, strict=True)))
            for t, masked in masks.items()
        ),
        regenerations=tuple(
            _regenerated(network, source, context, ids, masked, t=t, seed=seed, top=top)
            for t, masked in masks.items()
            if t > 0
        ),
    )


def position_uniforms(count: int, seed: int) -> tuple[float, ...]:
    """One uniform u in [0, 1) for each of `count` positions; masked at level t where u < t, so masks only grow."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, dtype=torch.float64, generator=random).tolist())


def _words(source: Source, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(source.tokenizer.decode([token]) for token in ids)


def _check(source: Source, context: list[int], ids: list[int], eos_id: int) -> None:
    if not ids:
        raise InputError("the sentence to write again has no tokens; give one of the source's sentences")
    scores = source.score(np.array([[*context, *ids, eos_id]]))
    if not scores.valid[0]:
        at = int(scores.valid_until[0]) - len(context)
        where = f"from {source.tokenizer.decode([ids[at]])!r} on" if 0 <= at < len(ids) else "and end there"
        raise InputError(
            f"the source cannot write {source.tokenizer.decode(ids)!r} behind {CONTEXT!r} {where}; "
            "give whole sentences of its grammar (python -m dlmbench.models.source --show 5)"
        )


@torch.inference_mode()
def _regenerated(
    network: Network,
    source: Source,
    context: list[int],
    ids: list[int],
    masked: list[bool],
    *,
    t: float,
    seed: int,
    top: int,
) -> Regeneration:
    """The sentence `ids` from level `t` back, one position a step."""
    mask_id, eos_id = source.tokenizer.mask_id, source.tokenizer.eos_id
    assert mask_id is not None
    assert eos_id is not None
    draws = ExactDraws(torch.Generator().manual_seed(seed_of(seed, "sentence", f"t = {t}")))
    tokens = [mask_id if m else token for m, token in zip(masked, ids, strict=True)]
    steps: list[DenoisingStep] = []
    while mask_id in tokens:
        open_at = [position for position, token in enumerate(tokens) if token == mask_id]
        law = _law(network, [*context, *tokens, eos_id], [len(context) + p for p in open_at], mask_id)
        chosen = int(draws.positions(torch.ones(1, len(open_at)), 1))
        token = int(draws.tokens(law[chosen, None], torch.tensor([0]), (1, 1)))
        candidates: list[tuple[Candidate, ...]] = [()] * len(tokens)
        for row, position in enumerate(open_at):
            drawn = token if row == chosen else None
            candidates[position] = _candidates(source, law[row], top, drawn)
        steps.append(
            DenoisingStep(
                tokens=tuple(None if i in open_at else word for i, word in enumerate(_words(source, tokens))),
                candidates=tuple(candidates),
                committed=(open_at[chosen],),
            )
        )
        tokens[open_at[chosen]] = token
    scores = source.score(np.array([[*context, *tokens, eos_id]]))
    return Regeneration(
        t=t,
        seed=seed,
        steps=tuple(steps),
        tokens=_words(source, tokens),
        text=source.tokenizer.decode(tokens),
        log_prob=float(scores.log_prob[0].sum()) if scores.valid[0] else None,
    )


def _law(network: Network, ids: list[int], positions: list[int], mask_id: int) -> Tensor:
    """Probabilities [n, V] of the clean token at `positions` of `ids`, float32 on the host: SUBS, so never the mask."""
    network.rotary(len(ids))
    given = torch.tensor([ids], device=network.device)
    hidden = network.trunk(given, mask="bidirectional", condition=network.conditioning(None))
    logits = network.logits(hidden[0, positions]).float().cpu()
    return logits.index_fill(1, torch.tensor([mask_id]), -torch.inf).softmax(dim=-1)


def _candidates(source: Source, law: Tensor, top: int, drawn: int | None) -> tuple[Candidate, ...]:
    """The `top` likeliest of a law [V], and the drawn one."""
    likeliest: list[int] = law.topk(min(top, len(law))).indices.tolist()
    found = [token for token in likeliest if law[token] > 0]
    if drawn is not None and drawn not in found:
        found.append(drawn)
    names = _words(source, found)
    # A sum of float32 may leave a certain token slightly above 1.
    return tuple(Candidate(token=n, probability=min(float(law[i]), 1.0)) for n, i in zip(names, found, strict=True))
