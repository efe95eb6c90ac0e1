"""The recorded forwards of a bidirectional network: whole and layer by layer, and of changed ids beside a cache.

Of `io.safetensors`, what a name says is compared: `logits`, `logits_shifted`, `hidden_*`, `kv_cache_layerN_k/v`, whose
keys are recorded before RoPE (ours are turned back), and the logits of `prefix_cache_*` and `dual_cache_*`.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ...models.backbone import Backbone
from ...models.cache import KVCache
from ...models.network import Network, rotate
from .folder import Folder

_CACHED = re.compile(r"kv_cache_layer(?P<layer>\d+)_(?P<what>[kv])")
_ENTERED = re.compile(r"hidden_(?:block|layer)(?P<layer>\d+)_in")


def compare_forwards(folder: Folder, network: Backbone) -> None:
    """Forwards of `input_ids` [B, S], which must be recorded."""
    ids = folder.tensor("input_ids")
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
    for name in folder.names():
        layer, cached = _ENTERED.fullmatch(name), _CACHED.fullmatch(name)
        if name in whole:
            folder.compare(name, whole[name])
        elif layer and int(layer["layer"]) in entered:
            folder.compare(name, entered[int(layer["layer"])])
        elif cached and int(cached["layer"]) < len(cache.keys):
            _cached(folder, name, network, cache, int(cached["layer"]), cached["what"])
    for kind, start in (("prefix_cache", "prefix_cache_len"), ("dual_cache", "dual_cache_start")):
        if f"{kind}_logits" in folder.names():
            folder.inputs("dual_cache_end")
            _beside(folder, network, ids, kind, int(folder.tensor(start)))


def _cached(folder: Folder, name: str, network: Network, cache: KVCache, layer: int, what: str) -> None:
    """A layer's values, or its keys before RoPE: LLaDA records [B, Hkv, S, D], Dream [B, S, Hkv D]."""
    recorded = folder.tensor(name)
    entries = (cache.keys if what == "k" else cache.values)[layer].transpose(1, 2)
    if what == "k":
        places = slice(entries.shape[1])
        entries = rotate(entries, network.cos[places], -network.sin[places])
    ours = entries.flatten(2) if recorded.dim() == 3 else entries.transpose(1, 2)
    folder.compare(name, ours[: recorded.shape[0]])


def _beside(folder: Folder, network: Network, ids: Tensor, kind: str, start: int) -> None:
    """Logits of changed ids at `start`, beside what a forward of the whole sequence left in the cache."""
    changed = folder.tensor(f"{kind}_input_ids")
    rows, positions = changed.shape[0], ids.shape[1]
    cache = KVCache(network.config, rows, positions, network.dtype, "cpu")
    network.trunk(ids[:rows], mask="bidirectional", cache=cache)
    hidden = network.trunk(changed, mask="bidirectional", cache=cache, start=start, live=positions)
    folder.compare(f"{kind}_logits", network.logits(hidden))
