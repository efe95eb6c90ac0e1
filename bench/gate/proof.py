"""Whether a side's workers run its code and no other: what they say of themselves, held against how it was made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ... import InputError
from ...profiles.git import GitError
from ...profiles.provenance import origin_of
from ...profiles.record import Origin, Reason, WorkerInfo
from ..worker import PROTOCOL
from .checkout import changed_files
from .overlay import Places
from .sides import Made, Side

# 0: a worker of before it said; it answers the same requests.
_UNDERSTOOD = range(PROTOCOL + 1)


def greeted(side: Side, reply: Mapping[str, Any]) -> WorkerInfo:
    """Who answered `load`. Raises InputError where the worker speaks another protocol than this dlmbench."""
    protocol = reply.get("protocol", 0)
    if protocol not in _UNDERSTOOD:
        raise InputError(
            f"{side.name}: its worker speaks protocol {protocol}, this dlmbench up to {PROTOCOL}; run the gate with "
            f"the newer of the two"
        )
    info = reply.get("info")
    try:
        # What a newer worker of the same protocol says besides is not understood here, and not needed.
        known = {name: value for name, value in dict(info or {}).items() if name in WorkerInfo.model_fields}
        return WorkerInfo.model_validate(known)
    except (ValidationError, ValueError, TypeError):
        raise InputError(
            f"{side.name}: its worker does not say who it is; is it `python -m dlmbench.bench.worker`?"
        ) from None


def prove(side: Side, infos: Sequence[WorkerInfo]) -> Reason | None:
    """Why `infos` do not prove that the side's workers ran its commit; None if they do.

    All that a worker reports must either come from the side (then with its commit) or have nothing to do with the
    user's repository; and something must come from the side. A side given as a command is what its workers report.
    """
    if side.made is None:
        return None
    if not infos:
        return _unproven(side, "none of its workers said what it ran")
    try:
        changed = sorted({*changed_files(side.made.checkout)} - side.made.uneven)
    except GitError as error:
        return _unproven(side, f"its checkout cannot be examined ({error})")
    if changed:
        return _unproven(side, f"{changed[0]} in its checkout is no longer as in its commit")
    own = False
    for info in infos:
        for name, origin in origins(info).items():
            fault = _fault(side.made, name, origin)
            if fault is not None:
                return _unproven(side, f"{name} {fault}")
            own = own or _from_side(side.made, origin)
    if own:
        return None
    measured = ", ".join(sorted({name for info in infos for name in origins(info)}))
    return _unproven(side, f"its workers ran nothing of {side.made.repository.root}, only {measured}")


def same_code(base: Sequence[WorkerInfo], head: Sequence[WorkerInfo]) -> str | None:
    """A note where both sides report the very same code: the comparison is then one of a thing with itself."""
    reported = [{(name, origin) for info in infos for name, origin in _known(info)} for infos in (base, head)]
    if not reported[0] or reported[0] != reported[1]:
        return None
    return "the workers of base and head report the same code: this compares it with itself (A/A)"


def origins(info: WorkerInfo) -> dict[str, Origin]:
    """What a worker says that it runs; of an older one, which says only where its dlmbench lies, what lies there."""
    return {"dlmbench": origin_of(Path(info.package_path))} if info.origins is None else info.origins


def _known(info: WorkerInfo) -> list[tuple[str, str]]:
    """Code by name and what tells two versions of it apart. (A worker in a container has paths of its own.)"""
    if info.origins is None:
        return [("dlmbench", f"{info.package_path} {info.package_version} {info.commit}")]
    return [(name, f"{o.path} {o.version} {o.state}") for name, o in info.origins.items()]


def _fault(made: Made, name: str, origin: Origin) -> str | None:
    if _from_side(made, origin):
        if origin.commit != made.revision.commit:
            found = f"of commit {origin.commit[:12]}" if origin.commit else f"of no known commit ({origin.why})"
            return f"is {found}, not of {made.revision.commit[:12]}"
        return None
    if _places(made).of_user(origin.path):
        return f"was loaded from {origin.path}, which is the working tree itself"
    if _provided(made, name):
        return f"was loaded from {origin.path}, and not from the copy that was made for this side"
    return None


def _from_side(made: Made, origin: Origin) -> bool:
    return _places(made).of_side(origin.path)


def _provided(made: Made, name: str) -> bool:
    """Whether the side has a module of this name, or a package above it. (A plug-in's file is named by its path.)"""
    if os.sep in name:
        return False
    paths = [root / above for root in made.environment.roots for above in accumulate(name.split("."), "{}/{}".format)]
    return any((path / "__init__.py").exists() or path.with_name(f"{path.name}.py").exists() for path in paths)


def _places(made: Made) -> Places:
    return Places(str(made.repository.root), [str(made.checkout), str(made.environment.folder)])


def _unproven(side: Side, why: str) -> Reason:
    return Reason(code="not_the_ref", message=f"{side.name}: {why}")
