"""Questions to git: its answers, its errors as one line, and the state of a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_STATE_TIMEOUT_S = 2.0


class GitError(Exception):
    """Git could not do it, or there is no git; the message is its own most telling line."""


def git(
    folder: Path,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    given: str = "",
    timeout_s: float | None = None,
) -> str:
    """What git prints in `folder`, given a text on standard input. Raises GitError.

    Names that are no Unicode keep their bytes as `os.fsdecode` does. Nothing is asked of a user, no lock is taken
    and no index refreshed on the way: looking must not write into the repository.
    """
    quiet = ("--no-optional-locks", "-c", "core.fsmonitor=false")
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *quiet, *arguments],
            capture_output=True,
            timeout=timeout_s,
            env={**git_variables(os.environ), "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", **(variables or {})},
            input=os.fsencode(given),
        )
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise GitError(" ".join(str(error).split())) from None
    if done.returncode:
        raise GitError(_telling(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}")
    return os.fsdecode(done.stdout)


def git_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables without those by which git's hooks point at one repository; its configuration stays."""
    return {name: v for name, v in variables.items() if not name.startswith("GIT_") or name.startswith("GIT_CONFIG_")}


def git_state(folder: Path, timeout_s: float = _STATE_TIMEOUT_S) -> dict[str, Any] | None:
    """`{"commit", "dirty"}` of the repository that tracks `folder`; None if none does, or there is no git.

    Dirty means that something in the folder differs from the commit or is neither tracked nor ignored; None if git
    did not answer in time. An installed package inside someone's repository is ignored there, and so has no state.
    """
    try:
        # HEAD:./ is the folder's own tree: it exists only if the commit tracks the folder.
        found = git(folder, "rev-parse", "HEAD", "HEAD:./", timeout_s=timeout_s)
    except GitError:
        return None
    try:
        dirty = bool(git(folder, "status", "--porcelain", "--", ".", timeout_s=timeout_s).strip())
    except GitError:
        return {"commit": found.split()[0], "dirty": None}
    return {"commit": found.split()[0], "dirty": dirty}


def _telling(errors: str) -> str:
    """The first line by which git says that it failed, else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return failed[0].partition(":")[2].strip() if failed else "".join(lines[-1:])
