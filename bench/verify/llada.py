"""LLaDA and Fast-dLLM against a folder of their recorded outputs: network, caches and every recorded generation.

Of `io.safetensors`, what a name says is compared: `logits`, `hidden_*`, `logits_attention_mask` (keys of padding
hidden), the logits of cached forwards, and `kv_cache_layerN_k/v`, whose keys are recorded before RoPE: ours are turned
back. A run of `generate.json` is repeated from its own fields; the part of its name before the first dot says whose
loop it is (`orig`, `fast`, `prefix`, `dual`). Runs are repeated as published: the mask may be predicted, idle steps are
run, recorded uniforms are replayed. A run whose tokens are recorded as the same with the mask suppressed is repeated in
our default settings too.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.backbone import Backbone
from ...models.cache import KVCache
from ...models.checkpoints import load_network
from ...models.fast_dllm import FastDLLM
from ...models.generator import Request, Settings
from ...models.masked_diffusion import MaskedDiffusion, mask_of
from ...models.network import Network, Padding, rotate
from .folder import Folder
from .llada_draws import Recorded
from .tally import Tally

GENERATE = "io_generate.safetensors"
_LOOPS = {"orig": None, "fast": "none", "prefix": "prefix", "dual": "dual"}
_CACHED = re.compile(r"kv_cache_layer(?P<layer>\d+)_(?P<what>[kv])")
_BLOCK_IN = re.compile(r"hidden_block(?P<layer>\d+)_in")


def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError for a folder that cannot be read."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, Backbone):
        raise InputError(f"{folder.path}: holds a {type(network).__name__}, expected LLaDA's network")
    with torch.inference_mode():
        _network(folder, network)
    if not folder.has("generate.json"):
        return
    recorded = folder.json("generate.json")
    if recorded.get("mask_id", network.config.mask_id) != network.config.mask_id:
        folder.fail("mask_id", f"{network.config.mask_id} in config.json, recorded {recorded['mask_id']}")
    folder.inputs("prompts", file=GENERATE)
    for run in recorded.get("runs", []):
        name = str(run.get("name"))
        try:
            _run(folder, network, name, run)
        except Exception as error:  # a run that breaks is a failed check; the others are still of interest
            folder.inputs(*_stored(folder, name), file=GENERATE)
            folder.fail(name, f"{type(error).__name__}: {error}")


def _network(folder: Folder, network: Backbone) -> None:
    """Every tensor of io.safetensors."""
    names = folder.names()
    ids = folder.tensor("input_ids")
    positions = ids.shape[1]
    network.rotary(positions)
    cache = KVCache(network.config, ids.shape[0], positions, network.dtype, "cpu")
    inner: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, index=index: inner.__setitem__(index + 1, output))
        for index, layer in enumerate(network.layers)
    ]
    hidden = network.trunk(ids, mask="bidirectional", cache=cache)
    for hook in hooks:
        hook.remove()
    for name in names:
        block, cached = _BLOCK_IN.fullmatch(name), _CACHED.fullmatch(name)
        if name == "logits":
            folder.compare(name, network.logits(hidden))
        elif name == "hidden_embed":
            folder.compare(name, network.embedding[ids])
        elif name == "hidden_final_norm":
            folder.compare(name, hidden)
        elif block and int(block["layer"]) in inner:
            folder.compare(name, inner[int(block["layer"])])
        elif cached and int(cached["layer"]) < len(cache.keys):
            ours = _unturned(network, cache, int(cached["layer"]), cached["what"])
            folder.compare(name, ours[: folder.tensor(name).shape[0]])
    if "logits_attention_mask" in names:
        padding = Padding(folder.tensor("attention_mask").bool())
        folder.compare(
            "logits_attention_mask", network.logits(network.trunk(ids, mask="bidirectional", padding=padding))
        )
    if "prefix_cache_logits" in names:
        _partial(folder, network, ids, "prefix_cache", int(folder.tensor("prefix_cache_len")), positions)
    if "dual_cache_logits" in names:
        folder.inputs("dual_cache_end")
        _partial(folder, network, ids, "dual_cache", int(folder.tensor("dual_cache_start")), positions)


def _unturned(network: Network, cache: KVCache, layer: int, what: str) -> Tensor:
    """A layer's values, or its keys before RoPE, [B, Hkv, S, D]."""
    if what == "v":
        return cache.values[layer]
    keys = cache.keys[layer]
    places = slice(keys.shape[2])
    return rotate(keys.transpose(1, 2), network.cos[places], -network.sin[places]).transpose(1, 2)


def _partial(folder: Folder, network: Network, ids: Tensor, name: str, start: int, live: int) -> None:
    """Logits of changed ids at `start`, beside what a forward of the whole sequence left in the cache."""
    changed = folder.tensor(f"{name}_input_ids")
    rows = changed.shape[0]
    cache = KVCache(network.config, rows, ids.shape[1], network.dtype, "cpu")
    network.trunk(ids[:rows], mask="bidirectional", cache=cache)
    hidden = network.trunk(changed, mask="bidirectional", cache=cache, start=start, live=live)
    folder.compare(f"{name}_logits", network.logits(hidden))


def _run(folder: Folder, network: Network, name: str, run: dict[str, Any]) -> None:
    """Repeat one recorded generation."""
    stored = _stored(folder, name)
    loop = name.partition(".")[0]
    if "raises" in run or loop not in _LOOPS:
        folder.inputs(*stored, file=GENERATE)
        reason = f"the reference raises {run['raises']}" if "raises" in run else f"no loop {loop!r} is known"
        folder.skip(name, reason)
        return
    prompt = _prompts(folder, run)
    if bool((prompt == mask_of(network)).any()):
        folder.inputs(*stored, file=GENERATE)
        folder.skip(name, "the prompt holds masks, which the reference fills in and ours leaves alone")
        return
    draws = Recorded.of(folder, name, stored, GENERATE)
    published = _settings(run, loop, suppress_mask=False, idle_steps="run", draw="gumbel64" if draws else "exact")
    if draws is None and (published.temperature > 0 or published.remasking == "random"):
        folder.inputs(*stored, file=GENERATE)
        folder.fail(name, "the run is random, but its draws are not recorded; record its uniforms")
        return
    request = Request(prompt, run["gen_length"], published, 0, draws=draws)
    tokens, tally = _generated(network, request)
    folder.exact(f"{name}.tokens", torch.cat((prompt, tokens), dim=1), file=GENERATE)
    folder.exact(f"{name}.forwards", tally.nfe, expected=run["forwards"])
    promised = _generator(network, published).promised_nfe(request.shape, published)
    if promised is not None:
        folder.exact(f"{name}.promised_nfe", promised, expected=run["forwards"])
    if "forward_lengths" in run:
        folder.exact(f"{name}.forward_lengths", tally.lengths, expected=run["forward_lengths"])
    if f"{name}.unmask_step" in stored:
        recorded = folder.tensor(f"{name}.unmask_step", GENERATE)
        folder.exact(f"{name}.unmask_step", _unmask_steps(tally, prompt, tokens, mask_of(network), recorded),
                     file=GENERATE)  # fmt: skip
    if "masks_left" in run:
        left = int((tokens == mask_of(network)).sum())
        folder.exact(f"{name}.masks_left", left, expected=run["masks_left"])
    if draws is not None and (left_over := draws.left_over()):
        folder.fail(f"{name}.draws", f"{left_over} recorded draws were not used")
    if run.get("same_tokens_if_mask_logit_suppressed"):
        ours = _settings(run, loop, idle_steps=published.idle_steps)
        again, _ = _generated(network, Request(prompt, run["gen_length"], ours, 0))
        folder.exact(f"{name}.tokens (mask suppressed)", again, expected=tokens)


def _stored(folder: Folder, name: str) -> list[str]:
    """The tensors recorded for a run: what follows its name has no dot, unlike the end of a longer name."""
    return [entry for entry in folder.names(GENERATE) if entry.rpartition(".")[0] == name]


def _prompts(folder: Folder, run: dict[str, Any]) -> Tensor:
    """The prompts [B, P] that a run began with: `all` of them, or `row N`."""
    prompts, which = folder.tensor("prompts", GENERATE), str(run.get("prompts", "all"))
    if which == "all":
        return prompts
    row = re.fullmatch(r"row (\d+)", which)
    if not row or int(row[1]) >= prompts.shape[0]:
        raise InputError(f"prompts {which!r}: expected all, or row 0 to row {prompts.shape[0] - 1}")
    return prompts[int(row[1])][None]


def _settings(run: dict[str, Any], loop: str, **changes: Any) -> Settings:
    """The recorded run's settings."""
    optional = ("temperature", "cfg_scale", "remasking", "threshold", "factor")
    given = {key: run[key] for key in optional if run.get(key) is not None}
    return Settings(steps=run.get("steps"), block_length=run["block_length"], cache=_LOOPS[loop], **given, **changes)  # type: ignore[arg-type]


def _generator(network: Network, settings: Settings) -> MaskedDiffusion | FastDLLM:
    """LLaDA's loop, or Fast-dLLM's where the settings name a cache, if only none."""
    return MaskedDiffusion(network) if settings.cache is None else FastDLLM(network)


def _generated(network: Network, request: Request) -> tuple[Tensor, Tally]:
    """Tokens [B, L] of a request, and what was announced."""
    generator = _generator(network, request.settings)
    generator.prepare(request.shape, request.settings)
    tally = Tally()
    return generator.generate(request, tally), tally


def _unmask_steps(tally: Tally, prompt: Tensor, tokens: Tensor, mask_id: int, recorded: Tensor) -> Tensor:
    """For each position [B, P + L], the number of forwards after which it had its token; 0 for the prompt.

    A position that is still masked has no such step: there, whatever is recorded.
    """
    start = prompt.shape[1]
    steps = torch.cat((torch.zeros_like(prompt), torch.zeros_like(tokens)), dim=1)
    for (written, ids, _, offset, _), after in zip(tally.writes, tally.after, strict=True):
        window = steps[:, start + offset : start + offset + ids.shape[1]]
        window[slice(None) if written is None else written] = after
    if recorded.shape == steps.shape:
        masked = torch.cat((torch.zeros_like(prompt, dtype=torch.bool), tokens == mask_id), dim=1)
        steps = torch.where(masked, recorded, steps)
    return steps
