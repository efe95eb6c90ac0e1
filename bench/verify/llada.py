"""LLaDA and Fast-dLLM against a folder of their recorded outputs: network, caches and every recorded generation.

`io.safetensors` is read by `bidirectional`; `logits_attention_mask` (keys of padding hidden) is LLaDA's own. A run of
`generate.json` is repeated from its own fields; the part of its name before the first dot says whose loop it is
(`orig`, `fast`, `prefix`, `dual`). Runs are repeated as published: the mask may be predicted, idle steps are run,
recorded uniforms are replayed. A run whose tokens are recorded as the same with the mask suppressed is repeated in our
default settings too.
"""

from __future__ import annotations

from typing import Any

import torch

from ... import InputError
from ...models.backbone import Backbone
from ...models.checkpoints import load_network
from ...models.fast_dllm import FastDLLM
from ...models.generator import Request, Settings
from ...models.masked_diffusion import MaskedDiffusion, mask_of
from ...models.network import Network, Padding
from .bidirectional import compare_forwards
from .folder import RUNS, Folder
from .llada_draws import Recorded
from .runs import compare_unmask_steps, generated, prompts_of, repeat_runs, stored, unmask_steps

_LOOPS = {"orig": None, "fast": "none", "prefix": "prefix", "dual": "dual"}


def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError for a folder that cannot be read."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, Backbone):
        raise InputError(f"{folder.path}: holds a {type(network).__name__}, expected LLaDA's network")
    with torch.inference_mode():
        compare_forwards(folder, network)
        if "logits_attention_mask" in folder.names():
            _padded(folder, network)
    if not folder.has("generate.json"):
        return
    recorded = folder.json("generate.json")
    if recorded.get("mask_id", network.config.mask_id) != network.config.mask_id:
        folder.fail("mask_id", f"{network.config.mask_id} in config.json, recorded {recorded['mask_id']}")
    folder.inputs("prompts", file=RUNS)
    repeat_runs(folder, lambda name, run: _run(folder, network, name, run))


def _padded(folder: Folder, network: Network) -> None:
    padding = Padding(folder.tensor("attention_mask").bool())
    hidden = network.trunk(folder.tensor("input_ids"), mask="bidirectional", padding=padding)
    folder.compare("logits_attention_mask", network.logits(hidden))


def _run(folder: Folder, network: Network, name: str, run: dict[str, Any]) -> None:
    """Repeat one recorded generation."""
    entries = stored(folder, name)
    loop = name.partition(".")[0]
    if "raises" in run or loop not in _LOOPS:
        folder.inputs(*entries, file=RUNS)
        reason = f"the reference raises {run['raises']}" if "raises" in run else f"no loop {loop!r} is known"
        folder.skip(name, reason)
        return
    prompt = prompts_of(folder, str(run.get("prompts", "all")))
    if bool((prompt == mask_of(network)).any()):
        folder.inputs(*entries, file=RUNS)
        folder.skip(name, "the prompt holds masks, which the reference fills in and ours leaves alone")
        return
    draws = Recorded.of(folder, name, entries)
    published = _settings(run, loop, suppress_mask=False, idle_steps="run", draw="gumbel64" if draws else "exact")
    if draws is None and (published.temperature > 0 or published.remasking == "random"):
        folder.inputs(*entries, file=RUNS)
        folder.fail(name, "the run is random, but its draws are not recorded; record its uniforms")
        return
    request = Request(prompt, run["gen_length"], published, 0, draws=draws)
    generator = _generator(network, published)
    tokens, tally = generated(generator, request)
    masked = tokens == mask_of(network)
    folder.exact(f"{name}.tokens", torch.cat((prompt, tokens), dim=1), file=RUNS)
    folder.exact(f"{name}.forwards", tally.nfe, expected=run["forwards"])
    promised = generator.promised_nfe(request.shape, published)
    if promised is not None:
        folder.exact(f"{name}.promised_nfe", promised, expected=run["forwards"])
    if "forward_lengths" in run:
        folder.exact(f"{name}.forward_lengths", tally.lengths, expected=run["forward_lengths"])
    compare_unmask_steps(folder, name, prompt, unmask_steps(tally, tokens), masked)
    if "masks_left" in run:
        folder.exact(f"{name}.masks_left", int(masked.sum()), expected=run["masks_left"])
    if draws is not None and (left_over := draws.left_over()):
        folder.fail(f"{name}.draws", f"{left_over} recorded draws were not used")
    if run.get("same_tokens_if_mask_logit_suppressed"):
        ours = _settings(run, loop, idle_steps=published.idle_steps)
        again, _ = generated(_generator(network, ours), Request(prompt, run["gen_length"], ours, 0))
        folder.exact(f"{name}.tokens (mask suppressed)", again, expected=tokens)


def _settings(run: dict[str, Any], loop: str, **changes: Any) -> Settings:
    """The recorded run's settings."""
    optional = ("temperature", "cfg_scale", "remasking", "threshold", "factor")
    given = {key: run[key] for key in optional if run.get(key) is not None}
    return Settings(steps=run.get("steps"), block_length=run["block_length"], cache=_LOOPS[loop], **given, **changes)  # type: ignore[arg-type]


def _generator(network: Network, settings: Settings) -> MaskedDiffusion | FastDLLM:
    """LLaDA's loop, or Fast-dLLM's where the settings name a cache, if only none."""
    return MaskedDiffusion(network) if settings.cache is None else FastDLLM(network)
