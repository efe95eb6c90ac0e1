"""The match certificate: what is equal on both sides of a pair, and what is not, in words and per cent. Computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .architecture import Config
from .costs import forward_cost
from .names import BUILT_IN
from .pairs import Pair

Entry = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity on both sides; `difference_percent` is diffusion against AR, None for what is not a number."""

    quantity: str
    unit: str
    ar: Entry
    diffusion: Entry
    difference_percent: float | None
    verdict: str


def certificate(pair: Pair, *, dtype: str, kv_dtype: str | None = None, rows: int = 1, q_len: int = 256) -> list[Line]:
    """Compare the two sides of `pair` as they would run in `dtype`; forwards at (`rows`, `q_len`, kv_len = q_len)."""
    ar, diffusion = pair.ar.backbone, pair.diffusion.backbone
    kv = kv_dtype or dtype

    def both(quantity: str, unit: str, read: Callable[[Config], Entry]) -> Line:
        return _line(quantity, unit, read(ar), read(diffusion))

    def cost(config: Config, attribute: str) -> float:
        work = forward_cost(
            config, rows=rows, q_len=q_len, kv_len=q_len, logit_rows=rows * q_len, mask="bidirectional",
            dtype=dtype, kv_dtype=kv,
        )  # fmt: skip
        return float(getattr(work, attribute))

    shape = f"one forward at (rows {rows}, q_len {q_len}, kv_len {q_len}), same mask"
    lines = [
        both("total parameters", "1", lambda c: c.total_parameters),
        both("non-embedding parameters", "1", lambda c: c.non_embedding_parameters),
        both("active parameters", "1", lambda c: c.active_parameters),
        both("weight bytes", "B", lambda c: c.weight_bytes(dtype)),
        both("KV bytes per token", "B", lambda c: c.kv_bytes_per_token(kv)),
        both(f"FLOPs of {shape}", "FLOP", lambda c: cost(c, "flops")),
        both(f"bytes of {shape}", "B", lambda c: cost(c, "bytes")),
        _line("weight dtype", "", dtype, dtype),
        both("layers", "1", lambda c: c.num_hidden_layers),
        both("hidden size", "1", lambda c: c.hidden_size),
        both("MLP size", "1", lambda c: c.intermediate_size),
        both("query heads", "1", lambda c: c.num_attention_heads),
        both("key-value heads", "1", lambda c: c.num_key_value_heads),
        both("head size", "1", lambda c: c.head_dim),
        both("vocabulary", "1", lambda c: c.vocab_size),
        both("tied embedding and head", "", lambda c: c.tie_word_embeddings),
    ]
    lines += [_line(name, "", ar.features[name], diffusion.features[name]) for name in ar.features]
    names = (pair.ar.generator, pair.diffusion.generator)
    lines.append(_by_design("attention mask", *(_said(name, "mask") for name in names)))
    lines.append(_by_design("mask token", None, diffusion.mask_id))
    lines.append(_by_design("key-value cache", *(_said(name, "kv") for name in names)))
    lines.append(_by_design("generator", *names))
    return lines


def _said(name: str, what: str) -> str:
    entry = BUILT_IN.get(name.partition(":")[0])
    return "as its code says" if entry is None else str(getattr(entry, what))


def _line(quantity: str, unit: str, ar: Entry, diffusion: Entry) -> Line:
    if ar == diffusion:
        return Line(quantity, unit, ar, diffusion, 0.0 if _numeric(ar) else None, "equal")
    if not (_numeric(ar) and _numeric(diffusion)) or not ar:
        return Line(quantity, unit, ar, diffusion, None, "differs")
    assert isinstance(ar, int | float)
    assert isinstance(diffusion, int | float)
    percent = 100 * (diffusion / ar - 1)
    word = "more" if percent > 0 else "less"
    return Line(quantity, unit, ar, diffusion, percent, f"diffusion has {abs(percent):.3g} % {word}")


def _by_design(quantity: str, ar: Entry, diffusion: Entry) -> Line:
    if ar == diffusion:
        return _line(quantity, "", ar, diffusion)
    return Line(quantity, "", ar, diffusion, None, "differs by design: this is what the pair compares")


def _numeric(value: Entry) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
