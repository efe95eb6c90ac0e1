"""The built-in generators by name, with what can be said of each without its code: naming them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AR = "ar"
MASKED_DIFFUSION = "masked-diffusion"
LLADA = "llada"
FAST_DLLM = "fast-dllm"
DREAM = "dream"
MDLM = "mdlm"
SEDD = "sedd"
BD3LM = "bd3lm"
SDAR = "sdar"
BLOCK_DIFFUSION = "block-diffusion"
SPECULATIVE = "speculative"
DIFFUSION_GEMMA = "diffusion-gemma"
HF_DYNAMIC = "hf"
HF_STATIC = "hf-static"
GPT2 = "gpt2"


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A generator of ours: its side, what it is, and what it accepts. The first of `samplers` and `caches` is used
    where none is asked for; `mask` and `kv` are the certificate's words for its attention and its cache.

    `blocks`: T and the block length must divide L and the number of blocks (see `schedule.steps_per_block`).
    `native_block`: without a block length it takes the one that its network was trained with. `rules` are the decode
    settings of single systems that it knows (see `generator.Settings`).
    """

    side: Literal["ar", "diffusion"]
    description: str
    mask: str
    kv: str
    samplers: tuple[str, ...] = ()
    caches: tuple[str, ...] = ("none",)
    blocks: bool = False
    native_block: bool = False
    rules: tuple[str, ...] = ()


_WHOLE = "none: the whole sequence at every step"
_STALE = "none: the whole sequence at every step; prefix and dual reuse keys and values of earlier steps (approximate)"
_EXACT = "static, exact: finished blocks are stored once, with a forward of their own"

BUILT_IN: dict[str, BuiltIn] = {
    AR: BuiltIn(
        "ar", "autoregressive, prefill then decode on a static key-value cache", "causal", "static, live keys only"
    ),
    MASKED_DIFFUSION: BuiltIn(
        "diffusion", "LLaDA's sampler: semi-autoregressive blocks, low-confidence or random remasking, guidance",
        "bidirectional", _WHOLE, blocks=True,
        rules=("remasking", "cfg_scale", "commit_schedule"),
    ),
    LLADA: BuiltIn(
        "diffusion", "another name of masked-diffusion, which is LLaDA's sampler", "bidirectional", _WHOLE, blocks=True,
        rules=("remasking", "cfg_scale", "commit_schedule"),
    ),
    FAST_DLLM: BuiltIn(
        "diffusion", "Fast-dLLM on LLaDA: prefix or dual cache, confidence threshold or factor",
        "bidirectional", _STALE, caches=("none", "prefix", "dual"), blocks=True,
        rules=("remasking", "threshold", "factor", "commit_schedule"),
    ),
    DREAM: BuiltIn(
        "diffusion", "Dream's samplers, and Fast-dLLM's blocks with prefix or dual cache",
        "bidirectional", _STALE, samplers=("origin", "maskgit_plus", "topk_margin", "entropy"),
        caches=("none", "prefix", "dual"), rules=("threshold", "position_temperature", "commit_schedule"),
    ),
    MDLM: BuiltIn(
        "diffusion", "MDLM's samplers under the SUBS parameterisation", "bidirectional", _WHOLE,
        samplers=("ddpm_cache", "ddpm", "analytic"),
    ),
    SEDD: BuiltIn(
        "diffusion", "SEDD's score-based samplers with the denoising end step", "bidirectional", _WHOLE,
        samplers=("analytic", "euler"),
    ),
    BD3LM: BuiltIn(
        "diffusion", "BD3LM's block diffusion", "block-causal", _EXACT, samplers=("first_hitting", "ddpm"),
        caches=("kv", "none"), native_block=True,
    ),
    SDAR: BuiltIn(
        "diffusion", "SDAR's block diffusion", "block-causal", _EXACT,
        samplers=("low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded"),
        caches=("kv", "none"), blocks=True, native_block=True, rules=("threshold", "entropy_bound", "commit_schedule"),
    ),
    BLOCK_DIFFUSION: BuiltIn(
        "diffusion", "SDAR's block diffusion with a fixed number of tokens a step: block length 1 to L on one network",
        "block-causal", _EXACT,
        samplers=("low_confidence_static", "sequential", "low_confidence_dynamic", "entropy_bounded"),
        caches=("kv", "none"), blocks=True, native_block=True, rules=("threshold", "entropy_bound", "commit_schedule"),
    ),
    SPECULATIVE: BuiltIn(
        "diffusion", "hybrid: the pair's diffusion network drafts, its AR network verifies and keeps its own law",
        "causal; the drafter bidirectional", "static, live keys only; the drafter's of its last draft",
        caches=("prefix", "none"), rules=("commit_schedule",),
    ),
    DIFFUSION_GEMMA: BuiltIn(
        "diffusion", "DiffusionGemma: uniform-state canvases, entropy bound, through transformers' classes",
        "causal encoder, bidirectional canvas", "the encoder's, exact", caches=("kv",), rules=("entropy_bound",),
    ),
    HF_DYNAMIC: BuiltIn(
        "ar", "transformers' generate with a dynamic cache, on the pair's own weights; hf:PATH for a checkpoint",
        "causal", "dynamic, grown by concatenation",
    ),
    GPT2: BuiltIn(
        "ar", "GPT-2 small, random weights, in transformers' generate with a static cache", "causal", "static"
    ),
    HF_STATIC: BuiltIn(
        "ar", "transformers' generate with a static cache, likewise; hf-static:PATH for a checkpoint",
        "causal", "static",
    ),
}  # fmt: skip

DREAM_BLOCK = 32  # Fast-dLLM's block length, Dream's default with a cache

# Samplers to which T means nothing: one forward a token, or as many as the data ask for.
TIMELESS_SAMPLERS = {"first_hitting": "L", "entropy_bounded": None}

# How many positions these samplers commit at a step depends on the data; so do a threshold, a factor and a bound.
ADAPTIVE_SAMPLERS = ("low_confidence_dynamic", "entropy_bounded")

RANDOM = "random"
HUB = "hub"
TRAINED = "trained"
RANDOM_DISTRIBUTION = (
    "normal(0, 0.02); output projections of attention and MLP normal(0, 0.02 / sqrt(2 layers)); norms 1; biases 0, "
    "those of adaLN gates 1"
)
