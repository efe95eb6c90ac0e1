"""Dream and Fast-dLLM's Dream against a folder of recorded outputs: network, cache, padding and every generation.

Of `io.safetensors`, what a name says is compared: `logits`, `logits_shifted`, `hidden_*`, `leftpad_*`, the logits of
cached forwards, and `kv_cache_layerN_k/v` [B, S, Hkv D], whose keys are recorded before RoPE: ours are turned back. A
run of `generate.json` is repeated from its own fields and as published: the mask may be predicted, idle steps are run,
recorded draws are replayed. A run whose tokens are recorded as the same with the mask suppressed is repeated so, too,
and then, where it draws nothing, without idle steps: the path that is measured.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.backbone import Backbone
from ...models.cache import KVCache
from ...models.checkpoints import load_network
from ...models.dream import Dream, left_padding
from ...models.generator import Request, Settings
from ...models.masked_diffusion import mask_of
from ...models.network import Network, rotate
from .dream_draws import Recorded
from .folder import Folder
from .tally import Tally

RUNS = "io_generate.safetensors"
_CACHED = re.compile(r"kv_cache_layer(?P<layer>\d+)_(?P<what>[kv])")
_LAYER_IN = re.compile(r"hidden_layer(?P<layer>\d+)_in")
# Settings under the reference's names; a threshold is an algorithm there.
_NAMES = {"alg_temp": "position_temperature", "eps": "epsilon"}
_SAME = ("steps", "temperature", "top_p", "top_k", "threshold", "block_length")
_BY_THRESHOLD = "confidence_threshold"


@torch.inference_mode()
def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError for a folder that cannot be read."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, Backbone):
        raise InputError(f"{folder.path}: holds a {type(network).__name__}, expected Dream's network")
    if "input_ids" in folder.names():
        _network(folder, network)
    if not folder.has("generate.json"):
        return
    recorded = folder.json("generate.json")
    if "mask_id" in recorded:
        folder.exact("mask_id", network.config.mask_id, expected=recorded["mask_id"])
    folder.inputs("prompts", "leftpad_prompts", "leftpad_prompt_mask", file=RUNS)
    for run in recorded.get("runs", []):
        name = str(run.get("name"))
        try:
            _run(folder, network, name, run)
        except Exception as error:  # a run that breaks is a failed check; the others are still of interest
            folder.inputs(*_stored(folder, name), file=RUNS)
            folder.fail(name, f"{type(error).__name__}: {error}")


def _network(folder: Folder, network: Backbone) -> None:
    """Every tensor of io.safetensors."""
    names, ids = folder.names(), folder.tensor("input_ids")
    network.rotary(ids.shape[1])
    cache = KVCache(network.config, ids.shape[0], ids.shape[1], network.dtype, "cpu")
    entered: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, index=index: entered.__setitem__(index + 1, output))
        for index, layer in enumerate(network.layers)
    ]
    hidden = network.trunk(ids, mask="bidirectional", cache=cache)
    for hook in hooks:
        hook.remove()
    logits = network.logits(hidden)
    whole = {
        "logits": logits,
        # Row i predicts token i + 1; the first row predicts the first token, too.
        "logits_shifted": torch.cat((logits[:, :1], logits[:, :-1]), dim=1),
        "hidden_embed": network.embedding[ids],
        "hidden_final_norm": hidden,
    }
    for name in names:
        layer, cached = _LAYER_IN.fullmatch(name), _CACHED.fullmatch(name)
        if name in whole:
            folder.compare(name, whole[name])
        elif layer and int(layer["layer"]) in entered:
            folder.compare(name, entered[int(layer["layer"])])
        elif cached and int(cached["layer"]) < len(cache.keys):
            ours = _as_recorded(network, cache, int(cached["layer"]), cached["what"])
            folder.compare(name, ours[: folder.tensor(name).shape[0]])
    if "leftpad_attention_mask" in names:
        _left_padded(folder, network, ids)
    for kind, start in (("prefix_cache", "prefix_cache_len"), ("dual_cache", "dual_cache_start")):
        if f"{kind}_logits" in names:
            folder.inputs("dual_cache_end")
            _partial(folder, network, ids, kind, int(folder.tensor(start)))


def _as_recorded(network: Network, cache: KVCache, layer: int, what: str) -> Tensor:
    """A layer's values, or its keys before RoPE, [B, S, Hkv D]."""
    entries = (cache.keys if what == "k" else cache.values)[layer].transpose(1, 2)
    if what == "k":
        places = slice(entries.shape[1])
        entries = rotate(entries, network.cos[places], -network.sin[places])
    return entries.flatten(2)


def _left_padded(folder: Folder, network: Network, ids: Tensor) -> None:
    """Positions, and logits [B, S, V] of a left-padded batch; recorded as zero where there are only pads."""
    mask = folder.tensor("leftpad_attention_mask")
    padding = left_padding(mask, ids, 0)
    if "leftpad_position_ids" in folder.names():
        folder.exact("leftpad_position_ids", padding.positions)
    if "leftpad_logits_valid_rows" in folder.names():
        logits = network.logits(network.trunk(ids, mask="bidirectional", padding=padding))
        folder.compare("leftpad_logits_valid_rows", torch.where(mask.bool()[:, :, None], logits, 0.0))


def _partial(folder: Folder, network: Network, ids: Tensor, kind: str, start: int) -> None:
    """Logits of changed ids at `start`, beside what a forward of the whole sequence left in the cache."""
    changed = folder.tensor(f"{kind}_input_ids")
    rows, positions = changed.shape[0], ids.shape[1]
    cache = KVCache(network.config, rows, positions, network.dtype, "cpu")
    network.trunk(ids[:rows], mask="bidirectional", cache=cache)
    hidden = network.trunk(changed, mask="bidirectional", cache=cache, start=start, live=positions)
    folder.compare(f"{kind}_logits", network.logits(hidden))


def _run(folder: Folder, network: Network, name: str, run: dict[str, Any]) -> None:
    """Repeat one recorded generation."""
    stored, settings = _stored(folder, name), _settings(run)
    draws = _recorded_draws(folder, name, run)
    prompt, prompt_mask = _prompts(folder, run)
    reason = _not_repeated(run, settings, prompt, mask_of(network))
    if reason:
        folder.inputs(*stored, file=RUNS)
        folder.skip(name, reason)
        return
    random = run["alg"] == "origin" or settings.temperature > 0 or settings.position_temperature > 0
    if random and draws is None:
        raise InputError("the run is random, but its draws are not recorded; record uniforms and multinomial draws")
    request = Request(prompt, run["max_new_tokens"], settings, 0, prompt_mask, draws)
    tokens, tally = _generated(network, request)
    folder.exact(f"{name}.tokens", torch.cat((prompt, tokens), dim=1), file=RUNS)
    if draws is not None:
        folder.exact(f"{name}.draws left over", draws.left_over(), expected=0)
    _compare_course(folder, name, run, tally, prompt, tokens == mask_of(network))
    if run.get("same_tokens_if_mask_logit_suppressed"):
        settings = replace(settings, suppress_mask=True, idle_steps="run" if random else "skip")
        again = replace(request, settings=settings, draws=_recorded_draws(folder, name, run) if random else None)
        folder.exact(f"{name}.tokens, mask suppressed", _generated(network, again)[0], expected=tokens)


def _stored(folder: Folder, name: str) -> list[str]:
    """The tensors recorded for a run: what follows its name has no dot, unlike the end of a longer name."""
    return [entry for entry in folder.names(RUNS) if entry.rpartition(".")[0] == name]


def _settings(run: dict[str, Any]) -> Settings:
    """The recorded run's settings, as published."""
    given = {key: run[key] for key in _SAME if run.get(key) is not None}
    given |= {ours: run[key] for key, ours in _NAMES.items() if run.get(key) is not None}
    if "dual_cache" in run:
        given["cache"] = "dual" if run["dual_cache"] else "prefix"
    if run["alg"] != _BY_THRESHOLD:
        # Fast-dLLM's blocks rank by entropy, whatever they are asked for.
        given["sampler"] = "entropy" if "cache" in given else run["alg"]
        given.pop("threshold", None)
    elif "threshold" not in given:
        raise InputError(f"alg {_BY_THRESHOLD} without a threshold; record the threshold")
    return Settings(**given, suppress_mask=False, idle_steps="run")


def _recorded_draws(folder: Folder, name: str, run: dict[str, Any]) -> Recorded | None:
    """The draws recorded for a run, cut into calls; None if there are none."""
    calls: dict[str, list[Tensor]] = {}
    for kind, lengths in (("uniforms", "uniform_lengths"), ("multinomial", "multinomial_lengths")):
        entry = f"{name}.{kind}_concat"
        if entry in folder.names(RUNS):
            drawn = folder.tensor(entry, RUNS)
            if sum(run.get(lengths, [])) != len(drawn):
                raise InputError(
                    f"{entry} holds {len(drawn)} draws, but {lengths} add up to {sum(run.get(lengths, []))}"
                )
            calls[kind] = list(drawn.split(run[lengths]))
    return Recorded(name, calls.get("uniforms", []), calls.get("multinomial", [])) if calls else None


def _prompts(folder: Folder, run: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The prompts [B, P] that a run began with (`all` of them, `row N`, or the left-padded ones) and their mask."""
    which = str(run.get("prompts", "all"))
    if which.startswith("leftpad_prompts"):
        return folder.tensor("leftpad_prompts", RUNS), folder.tensor("leftpad_prompt_mask", RUNS).bool()
    prompts = folder.tensor("prompts", RUNS)
    if which == "all":
        return prompts, None
    row = re.fullmatch(r"row (\d+)", which)
    if not row or int(row[1]) >= prompts.shape[0]:
        raise InputError(f"prompts {which!r}: expected all, leftpad_prompts, or row 0 to row {prompts.shape[0] - 1}")
    return prompts[int(row[1])][None], None


def _not_repeated(run: dict[str, Any], settings: Settings, prompt: Tensor, mask_id: int) -> str | None:
    """Why a run is not repeated, if ours differs from it on purpose."""
    if "raises" in run:
        return f"the reference raises {run['raises']}"
    if bool((prompt == mask_id).any()):
        return "the prompt holds masks, which the reference fills in and ours leaves alone"
    if settings.cache is None or settings.threshold is not None:
        return None
    blocks = run["max_new_tokens"] // settings.block_length if settings.block_length else 0
    if settings.steps == blocks and settings.block_length != 1:
        return "with one step a block the reference leaves masks behind; ours finishes the block"
    if settings.temperature > 0:
        return "the reference draws for every position at a block's first forward; ours for the one that it commits"
    return None


def _generated(network: Network, request: Request) -> tuple[Tensor, Tally]:
    """Tokens [B, L] of a request, and what was announced."""
    generator, tally = Dream(network), Tally()
    generator.prepare(request.shape, request.settings)
    return generator.generate(request, tally), tally


def _compare_course(
    folder: Folder, name: str, run: dict[str, Any], tally: Tally, prompt: Tensor, masked: Tensor
) -> None:
    """Forwards, and what was committed after each. `masked` [B, L] marks what stayed masked."""
    start, forwards = prompt.shape[1], tally.nfe
    steps = torch.zeros_like(masked, dtype=torch.int64)
    for (written, ids, _, offset, _), after in zip(tally.writes, tally.after, strict=True):
        steps[:, offset : offset + ids.shape[1]][slice(None) if written is None else written] = after
    folder.exact(f"{name}.forwards", forwards, expected=run["forwards"])
    if "forward_lengths" in run:
        folder.exact(f"{name}.forward_lengths", tally.lengths, expected=run["forward_lengths"])
    if "masks_left" in run:
        folder.exact(f"{name}.masks_left", int(masked.sum()), expected=run["masks_left"])
    if "masks_before_each_forward" in run:
        before = [int((masked | (steps > done)).sum()) for done in range(forwards)]
        folder.exact(f"{name}.masks_before", before, expected=run["masks_before_each_forward"])
    if f"{name}.unmask_step" in folder.names(RUNS):
        recorded = folder.tensor(f"{name}.unmask_step", RUNS)
        steps = torch.cat((torch.zeros_like(prompt), steps), dim=1)
        if recorded.shape == steps.shape:
            # What is still masked has no step: there, whatever is recorded.
            steps[:, start:] = torch.where(masked, recorded[:, start:], steps[:, start:])
        folder.exact(f"{name}.unmask_step", steps, file=RUNS)
