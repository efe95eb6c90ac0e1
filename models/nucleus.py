"""The nucleus: the most probable tokens, in order, that hold mass p together (Holtzman et al. 2020).

Whether it includes the token with which the running sum first exceeds p is a convention: transformers *keeps* that
token, BD3LM *drops* it (its nucleus then has mass at most p, but for a single token that exceeds p alone, which always
stays). Of equal logits, the lower ids come first.

To sort a vocabulary costs far more than all else here, and a nucleus is mostly small. So on a CPU a few candidates are
sorted first, and more of them for the rows whose nucleus reaches beyond. Which tokens it holds does not depend on that:
p is a share of the whole row's mass, and the candidates' is summed one after the other in float64.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Crossing = Literal["keep", "drop"]

# Numbers of candidates to try before the whole row. For many more, torch's topk takes as long as a sort of all.
_CANDIDATES = (64, 1024)


def outside_nucleus(logits: Tensor, top_p: float, crossing: Crossing = "keep") -> Tensor:
    """Which of logits [n, V], float32 or float64, are outside their row's nucleus of mass `top_p`: [n, V] bool."""
    on_cpu = logits.device.type == "cpu"
    limit = top_p * (logits - logits.amax(dim=-1, keepdim=True)).exp_().sum(dim=-1, keepdim=True).double()
    # Elsewhere at once: to ask which rows are done would be to wait for the device.
    count, least = _ends(logits, limit, crossing, _CANDIDATES if on_cpu else ())
    outside = logits < least
    # Of the logits that tie with the nucleus's last, the highest ids are too many.
    surplus = logits.shape[1] - outside.sum(dim=-1, keepdim=True) - count
    rows = surplus[:, 0].nonzero()[:, 0] if on_cpu else slice(None)
    tied = logits[rows] == least[rows]
    outside[rows] |= tied & (tied.cumsum(dim=-1) > tied.sum(dim=-1, keepdim=True) - surplus[rows])
    return outside


def _ends(logits: Tensor, limit: Tensor, crossing: Crossing, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """How many tokens of logits [n, V] each nucleus holds, and the least logit in it, both [n, 1].

    `limit` [n, 1] float64 is its mass, where the largest logit weighs 1; `sizes` say how many candidates to try.
    """
    whole = logits.shape[1]
    size = min((*sizes, whole)[0], whole)
    ordered = logits.topk(size, dim=-1).values if size < whole else _descending(logits)
    mass = (ordered - ordered[:, :1]).exp_().double().cumsum(dim=-1)
    inside = mass < limit if crossing == "keep" else mass <= limit
    # The first is in without regard to its own mass; who keeps the one that crosses has one more.
    count = (inside.sum(dim=-1, keepdim=True) + (crossing == "keep")).clamp_(1, size)
    least = ordered.gather(1, count - 1)
    if size < whole:
        rest = (mass[:, -1] <= limit[:, 0]).nonzero()[:, 0]
        if len(rest):
            count[rest], least[rest] = _ends(logits[rest], limit[rest], crossing, sizes[1:])
    return count, least


def _descending(logits: Tensor) -> Tensor:
    """Each row of logits [n, V] sorted."""
    # numpy sorts values alone, torch their indices with them: three times the work, but shared among the threads.
    if logits.device.type == "cpu" and min(len(logits), torch.get_num_threads()) <= 2:
        return torch.from_numpy(np.sort(logits.detach().numpy(), axis=-1)).flip(-1)
    return logits.sort(dim=-1, descending=True).values
