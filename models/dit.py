"""The DiT of MDLM, SEDD and BD3LM: a transformer whose norms are shifted, scaled and gated by the noise level.

Facts: MDLM (Sahoo et al. 2024, appendix on architecture; after Peebles & Xie 2023) and the recorded outputs that
`dlmbench verify` checks. Sigma is the same for every row of a generation, so its modulations are vectors: each norm's
scale and shift are folded into the norm's own weight and bias, and cost nothing per token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dit_config import SIGMA_FREQUENCIES, DiTConfig
from .linear import Linear
from .network import AttendFn, Network, rotate

_EPS = 1e-5


class Block(nn.Module):
    """Attention and GELU MLP, each on a modulated norm and through a gate."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.head_dim = config.head_dim
        self.norm1 = nn.Parameter(torch.empty(hidden))
        self.qkv = Linear(hidden, 3 * hidden)
        self.output = Linear(hidden, hidden)
        self.norm2 = nn.Parameter(torch.empty(hidden))
        self.up = Linear(hidden, 4 * hidden, bias=True)
        self.down = Linear(4 * hidden, hidden, bias=True)
        if config.adaln:
            self.modulation = nn.Linear(config.cond_dim, 6 * hidden)

    def modulate(self, code: Tensor) -> Tensor:
        """Shift, scale and gate of attention, then of the MLP, [R, 6 d], of the noise level's code [R, c]."""
        modulation: Tensor = self.modulation(code)
        return modulation

    def forward(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None
    ) -> Tensor:
        """One block on x [B, q, d]; `condition` [R, 6, d]: shift, scale and gate of attention, then of the MLP."""
        shift, scale, gate = (None,) * 3 if condition is None else condition[:, :3].unbind(1)
        qkv = self.qkv(_norm(x, self.norm1, shift, scale)).unflatten(-1, (3, -1, self.head_dim))
        turned, value = rotate(qkv[:, :, :2].flatten(2, 3), cos, sin), qkv[:, :, 2]
        query, key = turned.chunk(2, dim=2)
        attended = attend_fn(index, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        x = _gated(x, self.output(attended.transpose(1, 2).flatten(2)), gate)
        shift, scale, gate = (None,) * 3 if condition is None else condition[:, 3:].unbind(1)
        inner = F.gelu(self.up(_norm(x, self.norm2, shift, scale)), approximate="tanh")
        return _gated(x, self.down(inner), gate)


class DiT(Network):
    """Embedding, blocks, modulated final norm and biased head. Weights are uninitialised until loaded or drawn."""

    config: DiTConfig

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, hidden))
        if config.adaln:
            self.sigma_in = nn.Linear(SIGMA_FREQUENCIES, config.cond_dim)
            self.sigma_out = nn.Linear(config.cond_dim, config.cond_dim)
            self.modulation = nn.Linear(config.cond_dim, 2 * hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.Parameter(torch.empty(hidden))
        self.head = Linear(hidden, config.vocab_size, bias=True)
        self.requires_grad_(False)

    def conditioning(self, sigma: float | Tensor | None) -> Tensor | None:
        """Every block's modulations and the head's, [R, 6 n + 2, d], at noise level `sigma`: a number (R = 1) or [R].

        None (and anything, where the config has no time conditioning) means sigma = 0. A network without adaLN has no
        conditioning: None.
        """
        if not self.config.adaln:
            return None
        if sigma is None or not self.config.time_conditioning:
            sigma = 0.0
        level = torch.as_tensor(sigma, dtype=torch.float32, device=self.device).reshape(-1, 1)
        half = SIGMA_FREQUENCIES // 2
        exponent = torch.arange(half, dtype=torch.float32, device=self.device) * (-math.log(10_000.0) / half)
        angles = level * exponent.exp()
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.dtype)
        code = F.silu(self.sigma_out(F.silu(self.sigma_in(waves))))
        parts: list[Tensor] = [block.modulate(code) for block in self._blocks()]
        parts.append(self.modulation(code))
        return torch.cat(parts, dim=-1).view(level.shape[0], -1, self.config.hidden_size)

    def _blocks(self) -> Iterator[Block]:
        return cast("Iterator[Block]", iter(self.blocks))

    def _run(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None = None
    ) -> Tensor:
        if condition is None:
            condition = self.conditioning(None)
        x = F.embedding(ids, self.embedding)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for index, block in enumerate(self.blocks):
            own = None if condition is None else condition[:, 6 * index : 6 * index + 6]
            x = block(index, x, cos, sin, attend_fn, own)
        shift, scale = (None, None) if condition is None else condition[:, -2:].unbind(1)
        return _norm(x, self.norm, shift, scale)


def _norm(x: Tensor, weight: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """Layer norm without a bias of its own, then x (1 + scale) + shift; shift and scale [R, d], R = 1 for all rows."""
    size = (x.shape[-1],)
    if shift is None or scale is None:
        return F.layer_norm(x, size, weight, eps=_EPS)
    if shift.shape[0] == 1:
        return F.layer_norm(x, size, weight * (1 + scale[0]), shift[0], eps=_EPS)
    return torch.addcmul(shift[:, None], F.layer_norm(x, size, weight, eps=_EPS), 1 + scale[:, None])


def _gated(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    """x + gate * branch, gate [R, d]."""
    return x + branch if gate is None else torch.addcmul(x, branch, gate[:, None])
