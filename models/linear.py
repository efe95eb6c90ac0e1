"""A linear layer that is fast for a single row, too: the matrix-vector product that batch-1 decoding consists of.

On a CPU, BLAS reads a matrix at a third to a half of a core's bandwidth when the other operand is one vector. Two
remedies, both the same sums in another order:

- compiled, the product is written as a multiplication and a sum, which the compiler makes one vectorised loop that
  reads the weight at close to full bandwidth;
- eager, a transposed copy of a wide weight (more outputs than inputs) is read up to twice as fast. It costs memory, so
  it is made only where a generator asks for it (`Backbone.favour_single_rows`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LINE = 64  # floats: four cache lines
_SLICE = 1024  # outputs at a time


class Linear(nn.Module):
    """y = x W^T + b with weight [out, in], as checkpoints store it."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None
        self.transposed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if x.is_cuda:
            return F.linear(x, self.weight, self.bias)
        if x.numel() != x.shape[-1]:
            return self._many_rows(x)
        if torch.compiler.is_compiling():
            product = (self.weight.float() * x.float().reshape(-1)).sum(dim=-1)
            if self.bias is not None:
                product = product + self.bias
            return product.to(x.dtype).view(*x.shape[:-1], -1)
        if self.transposed is None:
            return F.linear(x, self.weight, self.bias)
        return x @ self.transposed if self.bias is None else x @ self.transposed + self.bias

    def _many_rows(self, x: Tensor) -> Tensor:
        """On a CPU: a wide product in slices of outputs, each written into its part of the result.

        BLAS loses a tenth to a third of its speed where the result is wide and few rows high, more where a row is no
        whole number of cache lines (a vocabulary of 50,258): slices keep to its best shapes, padding to its best lines.
        """
        size_out = self.weight.shape[0]
        if size_out < 2 * _SLICE or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1])
        product = x.new_empty(rows.shape[0], -(-size_out // _LINE) * _LINE)[:, :size_out]
        biases = (None,) * -(-size_out // _SLICE) if self.bias is None else self.bias.split(_SLICE)
        for part, weight, bias in zip(product.split(_SLICE, dim=1), self.weight.split(_SLICE), biases, strict=True):
            if bias is None:
                torch.mm(rows, weight.t(), out=part)
            else:
                torch.addmm(bias, rows, weight.t(), out=part)
        return product.view(*x.shape[:-1], size_out)

    def favour_single_rows(self, wanted: bool) -> None:
        """Keep (or drop) a transposed copy for single rows where it is read faster: fp32 on a CPU, a wide weight."""
        size_out, size_in = self.weight.shape
        if not wanted:
            self.transposed = None
        elif self.transposed is None and self.weight.dtype == torch.float32 and not self.weight.is_cuda:
            self.transposed = self.weight.t().contiguous() if size_out > size_in else None
