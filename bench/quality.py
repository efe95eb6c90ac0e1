"""What a cell's texts are worth: written on the cell's own settings outside timed samples, judged by the exact source.

T, block length, remasking, temperature and cache are the timed ones; engine and batch, which no row's law depends on,
are what writes many texts soonest. Every text begins behind a prompt of the source's own, so that all of it has an
exact probability. Only weights with the source's vocabulary can be judged so.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.catalog import Context, build
from ..models.gemma_config import GemmaConfig
from ..models.generator import Request, Settings, Silent
from ..models.names import RANDOM
from ..models.network import Network
from ..models.scoring import token_log_probs
from ..models.source import VIOLATIONS, Source, embedded_source
from ..models.tokenizer import Tokenizer
from ..profiles.quality import SourceFacts, Texts, Verdict, evaluate, unigram_entropy
from ..profiles.record import Cell, TextQuality
from .judge import Judge
from .opened import settings_of, shape_of

# Texts of one generation: few on a CPU, so that a time limit is overrun by little; AR's forwards are of single tokens.
ROWS = {"ar": 64, "diffusion": 16}
_ON_A_DEVICE = 128
_EXAMPLES = 2
_CONTROL = 1024  # of the source's own texts, whose words' entropy the generated ones are held against
Ids = NDArray[np.int64]


def source_of(tokenizer: Tokenizer, weights: str) -> Source | None:
    """The source that may judge texts of these weights: the embedded one, if they speak its words."""
    if weights == RANDOM:
        return None
    source = embedded_source()
    return source if tokenizer.sha256 == source.tokenizer.sha256 else None


def text_quality(
    cell: Cell,
    context: Context,
    source: Source,
    *,
    texts: int,
    seed: int,
    limit_s: float,
    judge: Judge | None = None,
) -> TextQuality:
    """Write and judge up to `texts` texts of a cell's settings; fewer where `limit_s` is over first, at least one
    generation's.

    `judge` is an AR checkpoint that took no part: it adds its own perplexity.
    """
    begin = time.perf_counter()
    prompts = source.texts(texts, cell.prompt_length, seed).astype(np.int64)
    ids = _written(cell, context, prompts, seed, begin + limit_s)
    start = cell.prompt_length
    found = Texts(ids, start, _emitted(cell, ids[:, start:], source.tokenizer.eos_id))
    scores = source.score(ids, prompt_length=start)
    verdict = Verdict(scores.log_prob, scores.valid_until, scores.violation, VIOLATIONS, entropy=source.entropy(ids))
    control = source.texts(_CONTROL, ids.shape[1], seed + 1)
    own = unigram_entropy(Texts(control, start, np.full(_CONTROL, cell.length)), source.vocab_size)
    judged = evaluate(
        found,
        verdict,
        SourceFacts(source.entropy_rate, source.word_frequencies, source.rule_frequencies),
        rule_counts=_rules(source, found),
        judge_log_prob=_under_ar(cell, context, ids, source.tokenizer.eos_id),
        source_unigram=own,
    )
    metrics = dict(judged.metrics)
    if judge is not None:
        metrics["quality.judge_ppl"] = judge.perplexity(found, source.tokenizer)
    return TextQuality(
        texts=len(ids),
        seconds=time.perf_counter() - begin,
        metrics=metrics,
        flattered=judged.flattered,
        examples=tuple(source.tokenizer.decode(row) for row in ids[:_EXAMPLES].tolist()),
    )


@torch.inference_mode()
def _written(cell: Cell, context: Context, prompts: Ids, seed: int, deadline: float) -> Ids:
    """Prompts [N, P] with what the cell's generator writes behind them, [n, P + L]."""
    rows = min(_ON_A_DEVICE if context.device.startswith("cuda") else ROWS[cell.side], len(prompts))
    shape = replace(shape_of(cell), batch=rows)
    settings: Settings = settings_of(cell)
    # One of its own: the timed one keeps the shape that it was prepared for.
    generator = build(cell.generator, context.for_cell("eager", cell.kv_dtype))
    generator.prepare(shape, settings)
    parts = []
    for first in range(0, len(prompts) - rows + 1, rows):
        given = torch.from_numpy(prompts[first : first + rows]).to(context.device)
        tokens = generator.generate(Request(given, cell.length, settings, seed + first), Silent())
        parts.append(torch.cat((given, tokens), dim=1).cpu().numpy())
        if time.perf_counter() > deadline:
            break
    return np.concatenate(parts)


def _emitted(cell: Cell, tokens: Ids, eos_id: int | None) -> Ids:
    """Tokens [N] that each text emitted: all, or under `natural` up to and with its first EOS."""
    rows, length = tokens.shape
    if cell.length_policy == "fixed" or eos_id is None:
        return np.full(rows, length)
    ends = tokens == eos_id
    emitted: Ids = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, length)
    return emitted


def _rules(source: Source, texts: Texts) -> dict[str, NDArray[np.int64]]:
    """Choices [N, alternatives] that each text took behind its prompt, by choice point."""
    start = texts.prompt_length
    counts: list[dict[str, NDArray[np.int64]]] = []
    for row, length in zip(texts.ids, texts.emitted.tolist(), strict=True):
        whole, prompt = source.rule_counts(row[None, : start + length]), source.rule_counts(row[None, :start])
        counts.append({name: whole[name] - prompt[name] for name in whole})
    return {name: np.stack([row[name] for row in counts]) for name in counts[0]}


def _under_ar(cell: Cell, context: Context, ids: Ids, eos_id: int | None) -> NDArray[np.float64] | None:
    """Log-probabilities [N, S] under the pair's AR network; None where it has none trained on the same words."""
    partner = context.partner
    if cell.side == "diffusion" and (partner is None or partner.weights == RANDOM):
        return None
    config = context.config if cell.side == "ar" or partner is None else partner.config
    if isinstance(config, GemmaConfig) or eos_id is None:
        return None
    network: Network = context.network() if cell.side == "ar" else context.partner_network()
    given = torch.from_numpy(ids).to(context.device)
    return token_log_probs(network, given, eos_id).double().cpu().numpy()
