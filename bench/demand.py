"""What a cell's generator keeps and feeds, from the cell's axes alone: caches, forwards of different shape, logits.

A table of what the generators in `models` do, without asking them: a plan needs it for shapes by the hundred, before
torch is imported. A test holds it against what the generators announce on a miniature (`forecast`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..models.architecture import Config
from ..models.buckets import decode_buckets
from ..models.footprint import GPT2_SMALL
from ..models.gemma_config import GemmaConfig
from ..models.names import (
    BD3LM,
    BLOCK_DIFFUSION,
    BUILT_IN,
    DIFFUSION_GEMMA,
    DREAM,
    DREAM_BLOCK,
    FAST_DLLM,
    GPT2,
    HF_DYNAMIC,
    HF_STATIC,
    LLADA,
    MASKED_DIFFUSION,
    MDLM,
    SDAR,
    SEDD,
    SPECULATIVE,
)
from ..profiles.record import Cell

# The published defaults of a network that names no block (`sdar`), and of T for each block (`bd3lm`).
_SDAR_BLOCK, _DDPM_STEPS = 4, 5000
_DRAFT_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Fed:
    """A forward of `rows` x `q_len` positions of a network beside `kv_len` keys in all.

    `head`: its function ends with the vocabulary logits of one position a row. `captured`: a graph engine captures it.
    """

    config: Config
    rows: int
    q_len: int
    kv_len: int
    head: bool = False
    captured: bool = True


@dataclass(frozen=True, slots=True)
class Demand:
    """`caches`: shape, rows and positions of each; `forwards`: those of different shape; `logit_rows`: the most that
    one of them computes; `window`: rows x positions that a race draws uniforms for."""

    forwards: tuple[Fed, ...]
    logit_rows: int
    caches: tuple[tuple[Config, int, int], ...] = ()
    window: int = 0


def demand_of(cell: Cell, config: Config, partner: Config) -> Demand:
    """The demand of a cell on a network `config`, `partner` the pair's other side. A generator that is not built in is
    taken for the simplest of its side, with a cache."""
    kind = cell.generator.partition(":")[0]
    if kind == GPT2:
        config = GPT2_SMALL
    if cell.side == "ar":
        return _autoregressive(cell, kind, config)
    if kind == SPECULATIVE:
        return _speculative(cell, config, partner)
    if kind == DIFFUSION_GEMMA and isinstance(config, GemmaConfig):
        return _canvases(cell, config)
    if kind in (BD3LM, SDAR, BLOCK_DIFFUSION):
        return _blocks(cell, kind, config)
    return _whole_canvas(cell, kind, config)


def keeps_keys(cell: Cell) -> bool:
    """Whether a cell's generator holds keys and values between forwards."""
    entry = BUILT_IN.get(cell.generator.partition(":")[0])
    default = "kv" if cell.side == "ar" or entry is None else entry.caches[0]
    return (cell.cache or default) != "none"


def _autoregressive(cell: Cell, kind: str, config: Config) -> Demand:
    rows, start = cell.batch, max(cell.prompt_length, 1)
    # transformers never writes the last token.
    capacity = start + cell.length - (kind in (HF_DYNAMIC, HF_STATIC, GPT2))
    steps = (Fed(config, rows, 1, live, head=True) for live in decode_buckets(capacity))
    prompt = Fed(config, rows, start, start, head=True)
    return Demand((prompt, *steps), rows, ((config, rows, capacity),))


def _whole_canvas(cell: Cell, kind: str, config: Config) -> Demand:
    rows, prompt, new = cell.batch, cell.prompt_length, cell.length
    fed = rows * (2 if cell.decode.cfg_scale else 1)
    positions, block = prompt + new, cell.block_length or new
    if kind == MDLM:
        positions = min(positions, config.max_position_embeddings)
        new = min(new, positions)
    if kind == DREAM and keeps_keys(cell):
        block = cell.block_length or min(DREAM_BLOCK, new)
    forwards = [Fed(config, fed, positions, positions)]
    caches: tuple[tuple[Config, int, int], ...] = ()
    if keeps_keys(cell):
        caches = ((config, rows, positions),)
        starts: Iterable[int] = range(prompt, positions, block) if cell.cache == "prefix" else (positions - block,)
        forwards += [Fed(config, rows, positions - start, positions) for start in starts]
    raced = cell.decode.draw != "exact"
    return Demand(
        tuple(forwards),
        fed // rows * _wanted(cell, kind, block, new),
        caches,
        rows * (positions if kind in (MASKED_DIFFUSION, LLADA, FAST_DLLM) else new) if raced else 0,
    )


def _wanted(cell: Cell, kind: str, block: int, new: int) -> int:
    """Positions, over all rows, whose logits the largest forward computes; guidance not counted."""
    decode, rows = cell.decode, cell.batch
    steps = cell.steps or cell.length
    if kind == SEDD:
        return rows * new
    if kind == MDLM:
        return rows * new if decode.draw != "exact" else _most_in_a_lot(rows * new, steps)
    if kind == DREAM:
        if keeps_keys(cell):
            # The refreshing forward commits the first position of a block, unless it has to commit them all.
            return rows * (block - (decode.threshold is not None or steps > new // block))
        ruled = decode.threshold is not None or decode.commit_schedule is not None or not decode.suppress_mask
        ranked = decode.sampler not in (None, "origin")
        return rows * new if ruled or ranked else _most_in_a_lot(rows * new, steps)
    if not decode.suppress_mask:
        return rows * new
    if decode.remasking == "random" and decode.draw == "exact":
        # The order is drawn beforehand: logits for what the step commits, and for nothing else.
        if decode.commit_schedule is not None:
            return rows * min(block, max(count for row in decode.commit_schedule.rows for count in row))
        return rows * math.ceil(block / max(1, steps * block // new))
    return rows * block


def _most_in_a_lot(positions: int, steps: int) -> int:
    """The most of `positions` that leave at one step, each at a random one of `steps`; about, by the normal tail."""
    mean = positions / steps
    if steps == 1:
        return positions
    return min(positions, math.ceil(mean + math.sqrt(2 * mean * (1 - 1 / steps) * math.log(steps))))


def _blocks(cell: Cell, kind: str, config: Config) -> Demand:
    rows, raced = cell.batch, cell.decode.draw != "exact"
    prompt = max(cell.prompt_length, 1) if kind == BD3LM else cell.prompt_length
    native = getattr(config, "block_size", None)
    size = cell.block_length or native or (prompt + cell.length if kind == BD3LM else _SDAR_BLOCK)
    end, first = -(-(prompt + cell.length) // size) * size, prompt // size * size
    count = (end - first) // size
    window = rows * size if raced else 0
    sampler = cell.decode.sampler or BUILT_IN[kind].samplers[0]
    if sampler == "first_hitting":
        logits = rows * size if raced else rows
    elif sampler == "ddpm":
        each = _DDPM_STEPS if cell.steps is None else max(1, cell.steps // count)
        logits = rows * size if raced else _most_in_a_lot(rows * size, each)
    elif sampler == "sequential" and cell.decode.commit_schedule is None and cell.decode.suppress_mask:
        logits = rows * math.ceil(size / max(1, (cell.steps or cell.length) // count))
    else:
        logits = rows * size
    if not keeps_keys(cell):
        return Demand((Fed(config, rows, end, end, captured=False),), logits, window=window)
    forwards = [Fed(config, rows, size, end)]
    if first:
        forwards.append(Fed(config, rows, first, first, captured=False))
    return Demand(tuple(forwards), logits, ((config, rows, end),), window)


def _speculative(cell: Cell, drafter: Config, target: Config) -> Demand:
    rows, start, k = cell.batch, max(cell.prompt_length, 1), cell.block_length or min(_DRAFT_LENGTH, cell.length)
    capacity = start + cell.length + k + 1
    steps = max(1, (cell.steps or 1) * k // cell.length)
    forwards = [Fed(target, rows, start, start, head=True), Fed(target, rows, k + 1, capacity)]
    caches = [(target, rows, capacity)]
    if keeps_keys(cell):
        caches.append((drafter, rows, capacity))
        forwards += [Fed(drafter, rows, start + 1 + k, start + 1 + k), Fed(drafter, rows, 2 * k + 1, capacity)]
        if steps > 1:
            forwards.append(Fed(drafter, rows, k + int(getattr(drafter, "shifted_logits", False)), capacity))
    else:
        forwards.append(Fed(drafter, rows, capacity, capacity))
    return Demand(tuple(forwards), rows * (k + 1), tuple(caches))


def _canvases(cell: Cell, config: GemmaConfig) -> Demand:
    rows, start, canvas = cell.batch, max(cell.prompt_length, 1), config.canvas_length
    encoded = start + (-(-cell.length // canvas) - 1) * canvas
    forwards = (
        Fed(config, rows, max(start, canvas if encoded > start else 0), encoded),
        Fed(config, rows, canvas, encoded + canvas),
    )
    return Demand(forwards, rows * canvas, ((config, rows, encoded),))
