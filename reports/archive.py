"""A run's folder as one file, to attach to an issue or to keep: `dlmbench report --archive out.tar.gz`.

The archive depends on the files' names and contents only: order is by name, times and owners are fixed. Packing the
same run twice gives the same bytes, so a checksum says whether two archives hold the same run.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .. import InputError
from ..profiles.store import RUN_FILE

ZIP, TAR = ".zip", ".tar.gz"
_MODE = stat.S_IFREG | 0o644
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


@dataclass(frozen=True, slots=True)
class Packed:
    """What an archive holds: names inside the run's folder, and those left out because they are no regular files."""

    path: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def pack(folder: Path, out: Path) -> Packed:
    """Pack the run in `folder` into `out`, a .zip or a .tar.gz that does not exist yet.

    Symbolic links are left out, not followed: a link in a run folder may point at anything on the machine. A crash
    leaves no file at `out`. Raises InputError, with nothing written, where the archive cannot be made.
    """
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder}: not a run folder, it has no {RUN_FILE}; give one written by `dlmbench run`")
    if not out.name.endswith((ZIP, TAR)) or out.name in (ZIP, TAR):
        raise InputError(f"{out}: expected an archive name that ends in {ZIP} or {TAR}; give another name")
    if os.path.lexists(out):
        raise InputError(f"{out}: already exists, expected a new file; give another name or remove it first")
    if not out.parent.is_dir():
        raise InputError(f"{out}: no such folder {out.parent}; create it first")

    files, left_out = _listing(folder)  # before the temporary file exists: `out` may lie in the folder itself
    top = folder.resolve().name
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as target:
            write = _write_zip if out.name.endswith(ZIP) else _write_tar
            write(target, ((f"{top}/{name}", folder / name) for name in files))
            target.flush()
            os.fsync(target.fileno())
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        place = error.filename or out
        raise InputError(f"{place}: {error.strerror} while packing {folder}; no archive was written") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Packed(out, files, left_out)


def _listing(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(regular files, everything else that is not a folder), as sorted names relative to `folder`, with slashes."""
    files: list[str] = []
    others: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        for path in (Path(place) / name for name in (*names, *linked)):
            regular = stat.S_ISREG(path.lstat().st_mode)
            (files if regular else others).append(path.relative_to(folder).as_posix())
    return tuple(sorted(files)), tuple(sorted(others))


def _write_zip(target: BinaryIO, members: Iterator[tuple[str, Path]]) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in members:
            info = zipfile.ZipInfo(name, _ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, so that the mode below means the same wherever it was packed
            info.external_attr = _MODE << 16
            with open(path, "rb") as source, archive.open(info, "w", force_zip64=True) as entry:
                shutil.copyfileobj(source, entry)


def _write_tar(target: BinaryIO, members: Iterator[tuple[str, Path]]) -> None:
    # gzip by hand: tarfile's own "w:gz" writes the current time and the file's name into the header.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in members:
            with open(path, "rb") as source:
                info = tarfile.TarInfo(name)
                info.size = os.fstat(source.fileno()).st_size
                info.mode = 0o644
                archive.addfile(info, source)
