"""Checkpoints of every system that we know into a network, and Llama-like ones back: safetensors only, no code.

A checkpoint is a folder in Hugging Face's layout: `config.json` beside `model.safetensors`, or beside shards listed in
`model.safetensors.index.json`. Names, shapes and dtypes are checked from the files' headers before anything is
allocated; then one tensor at a time is mapped, cast and copied to its place, so that the network itself is all that
loading allocates.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import InputError
from .backbone import Backbone
from .gemma_config import GemmaConfig
from .hf_config import ARCHITECTURES, to_hf
from .hf_files import WEIGHTS, Stored, opened, resolve, some, stored_tensors
from .layouts import DERIVED, HEAD, Layout, Piece, pieces
from .network import Network
from .systems import System, read_config, read_system
from .weights import empty_network

__all__ = ["checked", "load_network", "read_config", "resolve", "save_checkpoint"]

_DTYPES = {"F64", "F32", "BF16", "F16"}


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint whose headers are exactly what its config asks for: tensors by name, where each lies, its place."""

    system: System
    wanted: dict[str, Piece]
    stored: dict[str, Stored]


def checked(path: Path) -> Checked:
    """Read config and headers of the checkpoint in folder `path`; raises InputError where they do not agree."""
    system = read_system(path)
    config = system.config
    stored = stored_tensors(path)
    if isinstance(config, GemmaConfig):
        return Checked(system, {}, stored)  # transformers' own classes load it, and check its names
    if config.num_hidden_layers > len(stored):  # before a list as long as the config's claim is made
        raise InputError(
            f"{path / 'config.json'}: num_hidden_layers is {config.num_hidden_layers}, but the weights hold only "
            f"{len(stored)} tensors; expected all layers; download the checkpoint again"
        )
    layout: Layout = system.layout
    if layout == "dit" and any(name.startswith("backbone.") for name in stored):
        layout = "dit-prefixed"
    wanted = {piece.name: piece for piece in pieces(config, layout)}
    _check_headers(path, system, wanted, stored)
    return Checked(system, wanted, stored)


def load_network(path: Path, dtype: torch.dtype, device: torch.device | str) -> Network:
    """The checkpoint in folder `path`, cast to `dtype` on `device`, evaluation mode.

    Raises InputError, before anything is allocated where the headers show it, for whatever keeps the checkpoint from
    being exactly the network that its config describes.
    """
    found = checked(path)
    config, wanted, stored = found.system.config, found.wanted, found.stored
    if isinstance(config, GemmaConfig):
        raise InputError(f"{path}: {found.system.name} runs in transformers' classes only; choose another generator")
    network = empty_network(config, dtype, device)
    parameters = dict(network.named_parameters())
    for file in sorted({tensor.file for tensor in stored.values()}):
        with opened(file) as shard:
            for name, piece in wanted.items():
                if stored[name].file == file:
                    _fill(piece.of(parameters), shard.get_tensor(name), file, name)
    if isinstance(network, Backbone) and config.tie_word_embeddings and HEAD in stored:
        with opened(stored[HEAD].file) as shard:
            head = shard.get_tensor(HEAD)
            if not torch.equal(head.to(network.embedding), network.embedding):
                raise InputError(
                    f"{stored[HEAD].file}: {HEAD} differs from model.embed_tokens.weight, but config.json has "
                    "tie_word_embeddings true, expected equal tensors; set tie_word_embeddings to false"
                )
    return network.eval()


def save_checkpoint(network: Backbone, path: Path) -> None:
    """Write `network` to folder `path` under Hugging Face's names, for AutoModelForCausalLM.from_pretrained to load.

    Each file appears whole or not at all, `config.json` last. Raises InputError where no architecture has the
    backbone's features.
    """
    config = to_hf(network.config) | {"dtype": str(network.dtype).removeprefix("torch.")}
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, expected a folder to save the checkpoint in; choose another path")
    parameters = network.state_dict()
    tensors = {piece.name: piece.of(parameters).contiguous() for piece in pieces(network.config)}
    path.mkdir(parents=True, exist_ok=True)
    with _replacing(path / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    with _replacing(path / "config.json") as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check_headers(path: Path, system: System, wanted: Mapping[str, Piece], stored: Mapping[str, Stored]) -> None:
    """Raise InputError unless `stored` is exactly what the config asks for, in float dtypes."""
    missing = [name for name in wanted if name not in stored]
    if missing:
        hint = "set tie_word_embeddings to true if the head is tied, else " if missing == [HEAD] else ""
        raise InputError(
            f"{path}: {len(missing)} of {len(wanted)} tensors missing: {some(missing)}; expected the names of "
            f"{ARCHITECTURES.get(system.name, system.name)}; {hint}download the checkpoint again"
        )
    tied = {HEAD} if system.config.tie_word_embeddings else set()
    surplus = sorted(name for name in stored.keys() - wanted.keys() - tied if not DERIVED.fullmatch(name))
    if surplus:
        raise InputError(
            f"{path}: {len(surplus)} unexpected tensors: {some(surplus)}; expected none beside the {len(wanted)} that "
            "config.json describes; check that the config belongs to these weights"
        )
    for name, piece in wanted.items():
        tensor = stored[name]
        if tensor.shape != piece.shape:
            raise InputError(
                f"{tensor.file}: {name} has shape {list(tensor.shape)}, expected {list(piece.shape)} from config.json; "
                "check that the config belongs to these weights"
            )
        if tensor.dtype not in _DTYPES:
            raise InputError(
                f"{tensor.file}: {name} has dtype {tensor.dtype}, expected one of {', '.join(sorted(_DTYPES))}: "
                "quantised weights are not supported; choose the unquantised checkpoint"
            )


def _fill(target: Tensor, value: Tensor, file: Path, name: str) -> None:
    """Copy `value` to `target` with a cast; InputError where NaN or infinity comes out."""
    target.copy_(value)
    # Both extremes are finite only if everything between is; unlike isfinite it allocates nothing of the tensor's size.
    low, high = target.aminmax()
    if torch.isfinite(low) and torch.isfinite(high):
        return
    if torch.isfinite(value).all():
        dtype = str(target.dtype).removeprefix("torch.")
        raise InputError(
            f"{file}: {name} has values up to {float(value.abs().max()):.3g}, too large for {dtype}; expected finite "
            "weights after the cast; use bfloat16 or float32"
        )
    raise InputError(
        f"{file}: {name} has NaN or infinite values ({int((~torch.isfinite(value)).sum())} of {value.numel()}), "
        "expected finite weights; the checkpoint is broken, download it again"
    )


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file` that takes its place, flushed to disk, if the block succeeds."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)  # mkstemp's is private
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
