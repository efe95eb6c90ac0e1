"""The nucleus against its definition, row by row in float64; how its candidates are found must not matter."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from dlmbench.models import nucleus as module
from dlmbench.models.nucleus import Crossing, outside_nucleus

INF = torch.inf
CROSSINGS: tuple[Crossing, ...] = get_args(Crossing)


def noise(rows: int, size: int, scale: float, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def defined(logits: Tensor, top_p: float, crossing: Crossing) -> Tensor:
    """Tokens in descending order, equal ones by id, while the mass before them (drop: with them) is short of top_p."""
    kept = torch.zeros_like(logits, dtype=torch.bool)
    for row, values in enumerate(logits.double().numpy()):
        weights = np.exp(values - values.max())
        before = 0.0
        for index in np.argsort(-values, kind="stable"):
            after = before + weights[index] / weights.sum()
            # float32 weights decide nothing here: no row's border is that near.
            assert abs(before - top_p) > 1e-7
            assert abs(after - top_p) > 1e-7
            if before > 0 and (before if crossing == "keep" else after) > top_p:
                break
            kept[row, index] = True
            before = after
    return ~kept


def odd_rows(size: int) -> Tensor:
    """Rows that sorts and sums find hard."""
    ids = torch.arange(size)
    one_hot = torch.where(ids == size // 2, 0.0, -INF)
    return torch.stack(
        [
            torch.zeros(size),
            one_hot,
            torch.where(ids % 3 == 0, 2.0, -INF),
            torch.where(ids % 7 == 1, 3.0, 0.5),
            one_hot.clamp(min=-8.0),
            torch.where(ids < max(size - 2, 1), noise(1, size, 1.0)[0], -INF),
            noise(1, size, 1e-3)[0],
            5e3 - 0.01 * ids,
        ]
    )


@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("top_p", [0.0512, 0.5123, 0.9512])
# Nuclei end within 64 candidates, within 1024, and beyond; sizes are around these numbers.
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1023, 1025, 3000])
def test_the_set_is_the_definitions(size: int, top_p: float, crossing: Crossing) -> None:
    smooth = torch.cat([noise(3, size, scale, seed=size) for scale in (0.3, 1.0, 3.0, 8.0)])
    for logits in (smooth, smooth.bfloat16().float(), smooth.round(), odd_rows(size), odd_rows(size).double()):
        assert torch.equal(outside_nucleus(logits, top_p, crossing), defined(logits, top_p, crossing))


@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_candidates_do_not_change_the_set(
    dtype: torch.dtype, crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.cat([noise(4, 20_011, scale) for scale in (1e-3, 1.0, 3.0, 8.0)] + [odd_rows(20_011)]).to(dtype)
    logits = torch.cat((logits, logits.bfloat16().to(dtype)))
    # Masses such as 0.5 of two equals fall on the border itself.
    for top_p in (0.25, 0.5, 0.95, 1 - 1e-9):
        monkeypatch.setattr(module, "_CANDIDATES", ())
        whole = outside_nucleus(logits, top_p, crossing)
        for sizes in ((64, 1024), (1,), (2, 3, 20_010), (100_000,)):
            monkeypatch.setattr(module, "_CANDIDATES", sizes)
            for threads in (1, 8):  # who sorts depends on them
                monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
                assert torch.equal(outside_nucleus(logits, top_p, crossing), whole)


def test_of_equals_on_the_border_the_first_are_in() -> None:
    # Four quarters. Before the third lies exactly 0.5, which is not short of it; with the second it is not beyond.
    for crossing in CROSSINGS:
        assert outside_nucleus(torch.zeros(1, 4), 0.5, crossing).tolist() == [[False, False, True, True]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("crossing", CROSSINGS)
def test_a_gpu_finds_the_same_set_without_making_the_host_wait(crossing: Crossing) -> None:
    logits = torch.cat((noise(4, 3000, 1.0), noise(4, 3000, 3.0).round(), odd_rows(3000)))
    there = logits.cuda()
    outside_nucleus(there, 0.9512, crossing)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = outside_nucleus(there, 0.9512, crossing)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), defined(logits, 0.9512, crossing))
