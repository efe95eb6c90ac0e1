"""The checkpoints that ship: the small matched models, trained on the embedded source by `dlmbench train`.

Each is a folder in Hugging Face's layout under `models/trained/`, named after its model, with `training.json` as its
card: data, seed, recipe, curve and held-out loss. `trained:NAME` refers to one wherever a checkpoint can be given.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import InputError
from .names import TRAINED

FOLDER = Path(__file__).parent / "trained"
_PREFIX = f"{TRAINED}:"


def is_shipped(reference: str) -> bool:
    """Whether a reference names a checkpoint that ships (`trained:ar`)."""
    return reference.startswith(_PREFIX)


def reference_to(name: str) -> str:
    """The reference to the shipped checkpoint called `name`."""
    return f"{_PREFIX}{name}"


def shipped_names() -> list[str]:
    """Names of the checkpoints that ship."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def shipped_folder(reference: str) -> Path:
    """The folder of `trained:NAME`. Raises InputError for a name that does not ship."""
    name = reference.removeprefix(_PREFIX)
    if name not in shipped_names():
        raise InputError(
            f"{reference}: no such trained model ships; choose from {', '.join(map(reference_to, shipped_names()))}"
        )
    return FOLDER / name


def fingerprint(reference: str) -> str:
    """First 12 hex digits of the SHA-256 of a shipped checkpoint's weights."""
    data = (shipped_folder(reference) / "model.safetensors").read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]
