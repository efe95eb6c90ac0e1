"""Peaks that were measured before, in the user's cache folder: one small file for each identity of a device.

    ~/.cache/dlmbench/peaks/cpu-1f0c….json    (XDG_CACHE_HOME, or DLMBENCH_CACHE for the folder itself)

A file keeps the last measurement and the one before it. What cannot be read, written or trusted is as good as absent:
it costs a measurement and one sentence in `notes`, never an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from .hardware import DevicePeaks
from .store import replace_file
from .stored import Stored

# A day: drivers and settings are in the identity, but dust, firmware and a cloud's neighbours are not.
MAX_AGE_S = 24 * 3600.0


class Remembered(Stored):
    """One file: the last measurement under an identity and the one before it."""

    version: Literal[1] = 1
    last: DevicePeaks
    before: DevicePeaks | None = None


class PeaksCache:
    """The files of one folder (None: nowhere to keep any). `notes` says, once each, what went wrong with it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.notes: list[str] = [] if folder else ["peaks are not kept: no home folder for a cache; set DLMBENCH_CACHE"]

    @classmethod
    def of_user(cls, variables: Mapping[str, str]) -> PeaksCache:
        """The cache that the environment variables name."""
        return cls(cache_folder(variables))

    def path(self, identity: Mapping[str, str]) -> Path | None:
        """The file of a device under this identity."""
        digest = hashlib.sha256(json.dumps(sorted(identity.items())).encode()).hexdigest()
        return self._folder / f"{identity['device']}-{digest[:16]}.json" if self._folder else None

    def read(self, identity: Mapping[str, str]) -> Remembered | None:
        """What is remembered of a device under exactly this identity."""
        path = self.path(identity)
        if path is None:
            return None
        try:
            found = Remembered.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "not peaks of this version of dlmbench"
            self.notes.append(f"{path}: {why}; the device is measured anew")
            return None
        if found.last.identity != dict(identity):
            self.notes.append(f"{path}: peaks of another device; this one is measured anew")
            return None
        return found

    def write(self, peaks: DevicePeaks, before: DevicePeaks | None) -> None:
        """Keep `peaks` as the last measurement of their identity, and `before` as the one before it.

        Two writers at once leave the whole file of one of them.
        """
        path = self.path(peaks.identity)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, Remembered(last=peaks, before=before).model_dump_json(indent=1) + "\n")
        except OSError as error:
            self.notes.append(f"{path.parent}: cannot be written ({error.strerror}); peaks are not kept for later")

    def all(self) -> list[Remembered]:
        """Everything that can be read, whatever the device."""
        found = []
        for path in sorted(self._folder.glob("*.json")) if self._folder else ():
            try:
                found.append(Remembered.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                continue
        return found


def age_s(peaks: DevicePeaks, now: datetime | None = None) -> float | None:
    """Seconds since the peaks were measured; None where their date is none, or lies ahead of this machine's clock."""
    try:
        age = ((now or datetime.now(UTC)) - datetime.fromisoformat(peaks.measured)).total_seconds()
    except (ValueError, TypeError):
        return None
    return age if age >= 0 else None


def cache_folder(variables: Mapping[str, str]) -> Path | None:
    """Where this user's peaks are kept; None where the variables name no place.

    A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
    """
    if own := variables.get("DLMBENCH_CACHE"):
        return Path(own) / "peaks"
    cache = variables.get("XDG_CACHE_HOME", "")
    if not cache.startswith("/"):
        home = variables.get("HOME")
        cache = f"{home}/.cache" if home else ""
    return Path(cache) / "dlmbench" / "peaks" if cache else None
