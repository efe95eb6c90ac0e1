"""What a cell will need, before it is measured: sums whose parts can be written down."""

from __future__ import annotations

from typing import Any

import pytest

from dlmbench.bench.estimate import Fit, config_of, latency_above, memory_b, rough_latency_s
from dlmbench.models.costs import forward_cost
from dlmbench.models.names import BUILT_IN
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import Cell

PEAK = (1e12, 1e11)  # FLOP/s, B/s
# Far more arithmetic than reading: the floor is the bytes' time; and the other way round.
BYTES_DECIDE = (1e30, 1e9)


def cell(generator: str, pair: str = "small", **fields: Any) -> Cell:
    side = BUILT_IN[generator].side
    steps = fields.pop("steps", 8) if side == "diffusion" else None
    values = {"pair": pair, "side": side, "generator": generator, "length": 64, "prompt_length": 32, "steps": steps}
    return Cell(**(values | fields))


SMALL, MDLM = load_pair("small"), load_pair("mdlm-small")


def test_each_side_has_its_own_weights() -> None:
    """MDLM's AR baseline lacks adaLN: 7.4M parameters of 4 B."""
    assert config_of(cell("ar"), MDLM) == MDLM.ar.backbone
    assert config_of(cell("mdlm"), MDLM) == MDLM.diffusion.backbone
    difference = MDLM.diffusion.backbone.total_parameters - MDLM.ar.backbone.total_parameters
    swapped = MDLM.model_copy(update={"diffusion": MDLM.diffusion.model_copy(update={"backbone": MDLM.ar.backbone})})
    of = cell("mdlm", "mdlm-small")
    assert memory_b(of, MDLM, "cpu") - memory_b(of, swapped, "cpu") == 4 * difference


@pytest.mark.parametrize("name", ["mdlm-small", "sedd-small", "bd3lm-small", "dream-7b", "sdar-4b", "llada-8b",
                                  "diffusiongemma-26b-a4b"])  # fmt: skip
def test_every_system_can_be_estimated(name: str) -> None:
    """On a GPU at bfloat16: at least the weights, at most twice them and a few GB; some time, more for more tokens."""
    pair = load_pair(name)
    for generator in (pair.ar.generator, pair.diffusion.generator):
        of = cell(generator, name, dtype="bfloat16")
        weights = config_of(of, pair).weight_bytes("bfloat16")
        assert weights < memory_b(of, pair, "cuda") < 2 * weights + 3 * 10**9
        longer = cell(generator, name, dtype="bfloat16", length=128, steps=16)
        assert 0 < rough_latency_s(of, pair, *PEAK) < rough_latency_s(longer, pair, *PEAK)


def test_time_without_a_cache_is_one_whole_forward_a_step() -> None:
    # 8 forwards over 32 + 64 positions and half of the block's logits; at 70 % of the peak, 0.1 ms each besides.
    cost = forward_cost(
        SMALL.diffusion.backbone, rows=1, q_len=96, kv_len=96, logit_rows=32, mask="bidirectional", dtype="float32"
    )
    expected = 8 * (cost.bytes / 1e9 / 0.7 + 1e-4)
    assert rough_latency_s(cell("masked-diffusion"), SMALL, *BYTES_DECIDE) == pytest.approx(expected)


def test_blocks_beside_a_cache_are_cheaper_than_whole_forwards() -> None:
    flops_decide = (1e9, 1e30)
    whole, cached = (
        rough_latency_s(cell("fast-dllm", block_length=8, cache=cache), SMALL, *flops_decide)
        for cache in ("none", "dual")
    )
    # 8 whole forwards of 96 positions against 8 + 8 of 8 and the prompt of 32 once: 768 against 160.
    assert 3 < whole / cached < 6


def test_time_above_a_known_floor() -> None:
    # 40 % of the roofline for AR, 70 % for diffusion, and 0.1 ms a forward.
    assert latency_above(2.0, 10, "ar") == pytest.approx(2.0 / 0.4 + 1e-3)
    assert latency_above(2.0, 10, "diffusion") == pytest.approx(2.0 / 0.7 + 1e-3)


def test_fitting_is_said_in_bytes() -> None:
    assert Fit(10, None).fits
    assert Fit(10, 10).fits
    short = Fit(3_000_000_000, 1_250_000_000)
    assert not short.fits
    assert short.message == "needs about 3.00 GB of memory, 1.25 GB are free: 1.75 GB too much"
