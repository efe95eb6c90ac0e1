"""What choosing tokens costs a diffusion generation, and what it would cost written plainly.

The reference is the sampler as papers publish it: logits of every position at every step, float64 Gumbel noise on all
of them (LLaDA, Nie et al. 2025, `add_gumbel_noise`), confidences from a float64 softmax, the top ones committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlmbench.models.backbone import Backbone
from dlmbench.models.generator import Observer, Request, Settings
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.schedule import transfer_counts
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Recorder, Trace

if TYPE_CHECKING:
    from .interleave import Quartiles, Rounds

PAIR = "gpt2-size"
LENGTH, STEPS = 256, 8


@torch.inference_mode()
def plain_loop(network: Backbone, request: Request, observer: Observer) -> Tensor:
    """Tokens [1, L] without a prompt, low-confidence remasking, one block; announced like any generator's."""
    settings, random, mask_id = request.settings, request.random(), network.config.mask_id
    length, steps = request.length, request.settings.steps or request.length
    canvas = torch.full((1, length), mask_id)
    for step, count in enumerate(transfer_counts(length, steps)):
        with observer.forward("target", "denoise", 1, length, length, length, "bidirectional"):
            logits = network.logits(network.trunk(canvas, mask="bidirectional"))[0]
        logits[:, mask_id] = -torch.inf
        noisy = logits.double()
        if settings.temperature > 0:
            noise = torch.rand(logits.shape, dtype=torch.float64, generator=random)
            noisy = noisy.exp() / (-noise.log()) ** settings.temperature
        ids = noisy.argmax(dim=-1)
        confidence = logits.double().softmax(dim=-1).gather(1, ids[:, None])[:, 0]
        open_before = canvas[0] == mask_id
        chosen = confidence.masked_fill(~open_before, -torch.inf).topk(count).indices
        canvas[0, chosen] = ids[chosen]
        observer.write((open_before & (canvas[0] != mask_id))[None], canvas.clone(), step)
    return canvas


def traced(generate: Callable[[Request, Observer], Tensor], request: Request) -> Callable[[], Trace]:
    """A variant: the trace of one generation."""
    recorder = Recorder(HostClock())

    def run() -> Trace:
        recorder.start()
        generate(request, recorder)
        recorder.stop()
        return recorder.trace()

    return run


def asked(length: int, settings: Settings) -> Request:
    return Request(torch.empty((1, 0), dtype=torch.int64), length, settings, 0)


def test_sampling_share(
    network: Callable[[str], Backbone],
    interleave: Callable[..., Rounds],
    quartiles: Callable[..., Quartiles],
    tell: Callable[..., None],
) -> None:
    small = network("5m")
    generator, request = MaskedDiffusion(small), asked(64, Settings(steps=8))
    generator.prepare(request.shape, request.settings)
    recorder = Recorder(HostClock())
    assert generator.generate(request, recorder).tolist() == plain_loop(small, request, recorder).tolist()

    backbone = network(PAIR)
    generator = MaskedDiffusion(backbone)

    def loop(request: Request, observer: Observer) -> Tensor:
        return plain_loop(backbone, request, observer)

    settings = {
        "random remasking": Settings(steps=STEPS, temperature=1.0, remasking="random"),
        "greedy": Settings(steps=STEPS),
        "temperature 1": Settings(steps=STEPS, temperature=1.0),
    }
    for one in settings.values():
        generator.prepare(asked(LENGTH, one).shape, one)
    # One step of each is warm-up enough for generations of seconds.
    for run in (generator.generate, loop):
        traced(run, asked(LENGTH, Settings(steps=1, temperature=1.0)))()
    variants = {"plain loop": traced(loop, asked(LENGTH, settings["temperature 1"]))}
    variants["temperature 1"] = traced(generator.generate, asked(LENGTH, settings["temperature 1"]))
    taken = interleave(variants, rounds=5, warm_up=0)
    traces: dict[str, list[Trace]] = taken.results
    # A share is a ratio within one generation: it needs no rival, and hardly varies.
    for name in ("random remasking", "greedy"):
        generate = traced(generator.generate, asked(LENGTH, settings[name]))
        traces[name] = [generate() for _ in range(3)]

    def share(name: str) -> Quartiles:
        return quartiles((trace.sampling_s + trace.idle_s) / trace.latency_s for trace in traces[name])

    for name in settings:
        tell(f"diffusion {PAIR}, L {LENGTH}, T {STEPS}, {name}: sampling and idle", share(name), "%", "≤ 4 %")
    tell(
        f"diffusion {PAIR}, L {LENGTH}, T {STEPS}, plain loop: sampling and idle",
        share("plain loop"),
        "%",
        "none; shows what it saves",
    )
    what = f"diffusion {PAIR}, L {LENGTH}, T {STEPS}: temperature 1 over plain loop"
    tell(what, taken.ratio("plain loop", "temperature 1"), "×", "none; shows what it saves")
