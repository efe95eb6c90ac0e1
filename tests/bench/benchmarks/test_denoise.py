"""How near the forwards of both sides come to what the machine allows, measured in the same rounds.

A denoise forward is bound by arithmetic: its FLOPs over its time are set against the rate of a plain matrix product. A
decode step is bound by reading: its floor, the longer of its FLOPs and bytes at the measured peaks, is set against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.generator import Costed, Generator, Request, Settings
from dlmbench.models.hf_generate import HFGenerate
from dlmbench.profiles.calibration import Calibrator
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder, Trace

if TYPE_CHECKING:
    from .interleave import Quartiles, Rounds

PAIR = "gpt2-size"


@pytest.mark.parametrize("length", [256, 512])
def test_denoise_forward(
    length: int,
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    quartiles: Callable[..., Quartiles],
    tell: Callable[..., None],
) -> None:
    backbone = network(PAIR)
    backbone.rotary(length)
    ids = torch.randint(backbone.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(1))
    calibrator = Calibrator("cpu", "float32", HostClock(), backbone.config.weight_bytes("float32"))

    @torch.inference_mode()
    def trunk() -> torch.Tensor:
        return backbone.trunk(ids, mask="bidirectional")

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return backbone.logits(trunk()[:, : length // 2])

    assert forward().shape == (1, length // 2, backbone.config.vocab_size)
    taken = interleave({"peak": calibrator.measure, "trunk": trunk, "forward": forward}, rounds=10)

    for name, logit_rows, what in (
        ("forward", length // 2, "half the logits"),
        ("trunk", 0, "no logits"),
    ):
        flops = backbone.forward_cost("target", 1, length, length, logit_rows, "bidirectional").flops
        reached = [
            flops / seconds / calibration.matmul_flop_s
            for seconds, calibration in zip(taken.times[name], taken.results["peak"], strict=True)
        ]
        tell(f"denoise {PAIR}, L {length}, {what}: share of the matmul peak", quartiles(reached), "%", "≥ 85 %")


def test_decode_roofline(
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    quartiles: Callable[..., Quartiles],
    tell: Callable[..., None],
) -> None:
    eager, compiled = network(PAIR), network(PAIR)
    ids = torch.randint(eager.config.vocab_size - 2, (1, 16), generator=torch.Generator().manual_seed(1))
    request = Request(ids, 24, Settings(), 0)
    generators: dict[str, Generator] = {
        "HF dynamic": HFGenerate.from_backbone(eager),
        "compile": Autoregressive(compiled, engine="compile"),
        "eager": Autoregressive(eager, engine="eager"),
    }

    def traced(generator: Generator) -> Callable[[], tuple[Trace, list[list[int]]]]:
        generator.prepare(request.shape, request.settings)
        recorder = Recorder(HostClock())

        def generate() -> tuple[Trace, list[list[int]]]:
            recorder.start()
            tokens = generator.generate(request, recorder)
            recorder.stop()
            return recorder.trace(), tokens.tolist()

        return generate

    calibrator = Calibrator("cpu", "float32", HostClock(), eager.config.weight_bytes("float32"))
    variants: dict[str, Callable[[], Any]] = {"peak": calibrator.measure}
    variants |= {name: traced(generator) for name, generator in generators.items()}
    taken = interleave(variants, rounds=6)

    assert taken.results["eager"][0][1] == taken.results["compile"][0][1] == taken.results["HF dynamic"][0][1]
    for name, generator in generators.items():
        assert isinstance(generator, Costed)
        reached = []
        for peak, (trace, _) in zip(taken.results["peak"], taken.results[name], strict=True):
            costs = [
                generator.forward_cost(f.network, f.rows, f.q_len, f.kv_len, f.logit_rows, f.mask)
                for f in trace.forwards
            ]
            reached.append(sum(cost.floor_s(peak.matmul_flop_s, peak.read_b_s) for cost in costs) / trace.latency_s)
        tell(f"AR {PAIR}, batch 1, {name}: roofline_fraction", quartiles(reached), "%", "none; shows room")
