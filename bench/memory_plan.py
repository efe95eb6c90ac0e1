"""A cell's peak memory before anything is loaded, by what it is for: from shapes alone.

The peak is the weights, the caches, and the widest moment of a generation: the widest forward, or the widest step's
logits with what sampling holds beside them; on a CPU both, since freed memory stays. That moment is split into the
largest logits and what is left of it, `activations`. Captured graphs keep their widest moments for good, each in a pool
of its own, and add up.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.architecture import Config
from ..models.config import DTYPE_BYTES
from ..models.footprint import (
    GPT2_SMALL,
    forward_bytes,
    kv_cache_bytes,
    score_bytes,
    single_row_layout_bytes,
    transformers_forward_bytes,
)
from ..models.names import (
    AR,
    BD3LM,
    BLOCK_DIFFUSION,
    DIFFUSION_GEMMA,
    DREAM,
    FAST_DLLM,
    GPT2,
    HF_DYNAMIC,
    HF_STATIC,
    LLADA,
    MASKED_DIFFUSION,
    MDLM,
    SDAR,
    SPECULATIVE,
)
from ..models.pairs import Pair, SideSpec
from ..profiles.hardware import MemorySplit
from ..profiles.record import Cell
from .demand import Demand, Fed, demand_of

# A worker with no model, as seen on Linux: interpreter, torch and its libraries; what inductor and transformers add. On
# CUDA the context and the libraries on the device, which the allocator does not see.
_PROCESS_B = {"cpu": 320 << 20, "cuda": 900 << 20}
_INDUCTOR_B, _TRANSFORMERS_B = 140 << 20, 100 << 20
# Logits in float32 that sampling works on at once (`sampling.BLOCK_BYTES`).
SAMPLED_B = {"cpu": 2 << 20, "cuda": 256 << 20}
# cuBLAS's workspace on Hopper. A graph has its own, and its pool grows by segments of 2 and 20 MiB.
_WORKSPACE_B, _POOL_B = 32 << 20, 22 << 20
_TRANSFORMERS = (HF_DYNAMIC, HF_STATIC, GPT2, DIFFUSION_GEMMA)


@dataclass(frozen=True, slots=True)
class Shapes:
    """The network that a cell runs on, its pair's other one, and whether both are one set of weights."""

    own: Config
    partner: Config
    shared: bool

    @classmethod
    def of(cls, cell: Cell, pair: Pair) -> Shapes:
        """Those of a pair's cell."""
        own, other = (pair.diffusion, pair.ar) if cell.side == "diffusion" else (pair.ar, pair.diffusion)
        return cls(own.backbone, other.backbone, _source(own) == _source(other))


def _source(side: SideSpec) -> tuple[Config, str]:
    return side.backbone, side.weights


def predicted_memory(cell: Cell, shapes: Shapes, device: str) -> MemorySplit:
    """The split of a cell's peak on `device`; `rest_b` is what a worker takes with no model."""
    platform = "cuda" if device.startswith("cuda") else "cpu"
    demand = demand_of(cell, shapes.own, shapes.partner)
    vocabulary = demand.forwards[0].config.vocab_size
    logits = demand.logit_rows * vocabulary * DTYPE_BYTES[cell.dtype]
    moment = _widest_moment(cell, demand, logits, platform)
    return MemorySplit(
        weights_b=_weights(cell, shapes, platform),
        kv_b=sum(kv_cache_bytes(config, n, size, cell.kv_dtype or cell.dtype) for config, n, size in demand.caches),
        logits_b=logits,
        activations_b=moment - logits,
        rest_b=_process(cell, platform),
    )


def _process(cell: Cell, platform: str) -> int:
    """What a worker takes with no model."""
    if platform == "cuda":
        return _PROCESS_B["cuda"]
    theirs = _TRANSFORMERS_B if _kind(cell) in _TRANSFORMERS else 0
    return _PROCESS_B["cpu"] + theirs + (_INDUCTOR_B if cell.engine == "compile" else 0)


def _kind(cell: Cell) -> str:
    """The generator's name without a checkpoint's."""
    return cell.generator.partition(":")[0]


def _weights(cell: Cell, shapes: Shapes, platform: str) -> int:
    config = GPT2_SMALL if cell.generator == GPT2 else shapes.own
    weights = config.weight_bytes(cell.dtype)
    if cell.generator == SPECULATIVE and not shapes.shared:
        weights += shapes.partner.weight_bytes(cell.dtype)
    single = cell.generator == AR or (cell.generator in (BD3LM, SDAR, BLOCK_DIFFUSION) and cell.block_length == 1)
    if single and cell.batch == 1 and (platform, cell.dtype, cell.engine) == ("cpu", "float32", "eager"):
        weights += single_row_layout_bytes(config)
    return weights


def _widest_moment(cell: Cell, demand: Demand, logits: int, platform: str) -> int:
    """Bytes at the widest moment of a generation, weights and caches apart."""
    width = DTYPE_BYTES[cell.dtype]
    picked = demand.logit_rows * demand.forwards[0].config.hidden_size * width
    sampling = logits + _sampling(cell, demand, platform)
    widths = [_forward(cell, fed) for fed in demand.forwards]
    if "cudagraph" in cell.engine:
        graphs = [wide + _POOL_B + _WORKSPACE_B + fed.head * logits
                  for fed, wide in zip(demand.forwards, widths, strict=True) if fed.captured]  # fmt: skip
        eager = [wide for fed, wide in zip(demand.forwards, widths, strict=True) if not fed.captured]
        return sum(graphs) + max(picked + sampling, *eager, 0)
    if platform == "cpu":
        # The C library keeps freed memory (see `handle.worker_variables`): what the forward took is still resident when
        # the logits come, and hardly fits them.
        return max(widths) + picked + sampling
    hidden = max(fed.rows * fed.q_len for fed in demand.forwards) * demand.forwards[0].config.hidden_size * width
    return max(*widths, hidden + picked + logits, sampling) + _WORKSPACE_B


def _forward(cell: Cell, fed: Fed) -> int:
    """The widest moment of one forward, head apart."""
    of = transformers_forward_bytes if _kind(cell) in _TRANSFORMERS else forward_bytes
    wide = of(fed.config, fed.rows, fed.q_len, cell.dtype)
    if cell.attention == "math":
        wide += score_bytes(fed.config, fed.rows, fed.q_len, fed.kv_len, cell.dtype)
    if cell.kv_dtype not in (None, cell.dtype):
        # Those of one layer, cast.
        wide += 2 * fed.rows * fed.kv_len * fed.config.kv_size * DTYPE_BYTES[cell.dtype]
    return wide


def _sampling(cell: Cell, demand: Demand, platform: str) -> int:
    """What sampling holds beside the largest logits; copies in float32 unless said otherwise."""
    decode, kind = cell.decode, _kind(cell)
    vocabulary = demand.forwards[0].config.vocab_size
    whole, cast = 4 * demand.logit_rows * vocabulary, DTYPE_BYTES[cell.dtype] < 4
    if kind == DIFFUSION_GEMMA:
        # The prediction before, which conditions this one; capped, tempered, their softmax, its entropy.
        return 6 * whole
    if kind in _TRANSFORMERS:
        return whole * (3 if decode.temperature else 1)
    if decode.draw != "exact":
        number = 8 if decode.draw == "gumbel64" or kind == BD3LM else 4
        uniforms = demand.window * vocabulary * number
        if kind in (MDLM, BD3LM):
            # The uniforms, their logarithms and the race's keys, beside p(x0).
            return 4 * uniforms + whole
        return uniforms + (8 * whole if platform == "cuda" else SAMPLED_B[platform])
    if kind == SPECULATIVE:
        # The target's law and the drafter's.
        return (4 + cast) * whole if decode.temperature else 0
    if kind == BD3LM:
        return (2 + cast) * whole if decode.temperature else 0
    # Guidance casts the logits with the prompt and those without it, and makes a third of the two.
    guided = cast * whole + whole // 2 if decode.cfg_scale else 0
    if not decode.temperature and not _scored(cell):
        return guided
    # The others go through the logits part by part.
    part = min(whole, SAMPLED_B[platform])
    sampled = (1 + cast) * part + (8 * part if decode.top_p < 1 else part if decode.top_k else 0)
    if kind in (DREAM, SDAR, BLOCK_DIFFUSION):
        # A part and its weights live until the next one's are made.
        sampled += 3 * part if whole > part else part
    return guided + sampled


def _scored(cell: Cell) -> bool:
    """Whether positions are ranked by how sure the network is: not where the one step of a canvas takes all, nor where
    chance decides."""
    decode, kind = cell.decode, cell.generator
    chosen = cell.block_length is not None or cell.steps != 1 or decode.commit_schedule is not None
    if kind in (SDAR, BLOCK_DIFFUSION):
        return chosen and decode.sampler != "sequential"
    if kind == DREAM:
        ruled = decode.threshold is not None or cell.cache in ("prefix", "dual")
        return ruled or (chosen and decode.sampler not in (None, "origin"))
    if kind in (MASKED_DIFFUSION, LLADA, FAST_DLLM):
        ruled = decode.threshold is not None or decode.factor is not None or not decode.suppress_mask
        return decode.remasking == "low_confidence" and (chosen or ruled)
    return False
