"""A linear layer that is fast for one row, too: the matrix-vector product that batch-1 decoding on a CPU consists of.

BLAS libraries read a matrix at a third to a half of a core's bandwidth when the other operand is a single vector. Under
torch.compile the same product, written as a multiplication and a sum, becomes one fused vectorised loop that reads it
at close to full bandwidth, so a compiled graph for one row is built from that form. The sums are the same, in another
order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """y = x W^T + b with weight [out, in], as checkpoints store it."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if torch.compiler.is_compiling() and not x.is_cuda and x.numel() == x.shape[-1]:
            product = (self.weight.float() * x.float().reshape(-1)).sum(dim=-1)
            if self.bias is not None:
                product = product + self.bias
            return product.to(x.dtype).view(*x.shape[:-1], -1)
        return F.linear(x, self.weight, self.bias)
