"""The files of a checkpoint: where they are, and what their headers say. Nothing is read that could be executed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import InputError
from .hf_config import read_json
from .trained import is_shipped, shipped_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Only the top folder, and no second copy of the weights in another naming; "*" also matches a slash.
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt", "vocab.txt"]
_HUB_SKIP = ["*/*", "consolidated*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a safetensors header says of one tensor, `dtype` in the header's words (BF16, F8_E4M3, …)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class _Header(Protocol):
    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str: ...


class Shard(Protocol):
    """What is used of `safetensors.safe_open`, which declares no types."""

    def keys(self) -> list[str]: ...

    def get_slice(self, name: str) -> _Header: ...

    def get_tensor(self, name: str) -> Tensor: ...


def resolve(reference: str) -> Path:
    """The folder of a checkpoint: one that ships (`trained:NAME`), a local one, or a hub id (`organisation/name`) that
    is downloaded if not cached.

    Only JSON, safetensors and tokenizer files are fetched. Raises InputError with what was tried.
    """
    if is_shipped(reference):
        return shipped_folder(reference)
    local = Path(reference).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise InputError(f"{reference}: is a file, expected the checkpoint's folder; give {local.parent} instead")
    if not _HUB_ID.fullmatch(reference):
        raise InputError(f"{reference}: no such folder, and not a hub id like organisation/name either; check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_SKIP))
    except Exception as error:  # the hub client raises many kinds (HTTP, offline, validation, disk), all of them input
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{reference}: no such folder, and the Hugging Face hub has no such model or cannot be reached "
            f"({type(error).__name__}: {reason}); check the id, or give the path of a local folder"
        ) from error


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor in the checkpoint's files, from their headers. Raises InputError."""
    listed: dict[str, str] | None = None
    if (path / WEIGHTS).is_file():
        files = [path / WEIGHTS]
    elif (path / INDEX).is_file():
        listed = _weight_map(path / INDEX)
        files = [path / name for name in sorted(set(listed.values()))]
    else:
        raise InputError(_no_weights(path))
    stored: dict[str, Stored] = {}
    for file in files:
        with opened(file) as shard:
            for name in shard.keys():  # noqa: SIM118
                if listed is None or listed.get(name, file.name) == file.name:
                    header = shard.get_slice(name)
                    stored[name] = Stored(file, tuple(header.get_shape()), header.get_dtype())
    lost = [name for name in listed or () if name not in stored]
    if listed and lost:
        raise InputError(
            f"{path / INDEX}: weight_map places {some(lost)} in {listed[lost[0]]}, which does not have it; "
            "expected every tensor in its shard; download the checkpoint again"
        )
    return stored


def pretrained(kind: Any, path: Path, dtype: torch.dtype, *, advice: str = "choose another checkpoint") -> Any:
    """The checkpoint in `path` as a model of transformers' class `kind`: safetensors only, no code of the checkpoint's.

    Raises InputError, with `advice` where transformers cannot load it.
    """
    stored_tensors(path)
    try:
        model, report = kind.from_pretrained(
            path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers cannot load is the input's fault; its own kinds are many
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: transformers cannot load it ({type(error).__name__}: {reason}); {advice}") from error
    # transformers would go on with random values in their place.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{path}: {len(missing)} tensors of {type(model).__name__} missing: {some(missing)}; expected all of "
            "them; download the checkpoint again"
        )
    return model


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name to shard file name, from the index; each shard is a file in the index's own folder."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise InputError(f"{index}: weight_map is missing or no object of file names; download the checkpoint again")
    for name in sorted(set(listed.values())):
        # Judged by the name, not by where it leads: the hub's cache consists of links.
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index}: weight_map names the shard {name!r}, expected the plain name of a .safetensors file in "
                "the same folder; do not use this checkpoint unless you trust where it came from"
            )
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: weight_map names the shard {name}, which is missing; download it")
    return listed


def _no_weights(path: Path) -> str:
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        return (
            f"{path}: weights only as {some(pickles)}, expected {WEIGHTS}: safetensors is required, pickles are "
            "never opened; convert where you trust the file: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder)"
        )
    return f"{path}: has no {WEIGHTS} and no {INDEX}, expected one of them; download the weights"


@contextmanager
def opened(file: Path) -> Iterator[Shard]:
    """An open safetensors file; InputError where it is not whole, also if that shows only inside the block."""
    try:
        with safe_open(file, framework="pt", device="cpu") as shard:
            yield cast(Shard, shard)
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: not a whole safetensors file ({reason}), {file.stat().st_size} bytes found; truncated, corrupt "
            "or a Git LFS pointer; download it again"
        ) from None


def some(names: Iterable[str]) -> str:
    """The first few names, and how many follow."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
