"""A Python environment of a side's own: the side's copy of the repository's packages, over the parent's libraries.

Both sides share every library of the environment that the gate runs in: what is compared is the repository's code, not
two sets of dependencies. Only its packages are built, once for each side; nothing is cached, since a build may depend
on more than its commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sysconfig
import time
import tomllib
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from ... import InputError
from ...profiles.git import git_variables
from ...profiles.provenance import installed_from
from . import overlay
from .checkout import clean
from .repository import Repository

# (command, folder, variables, log) -> exit code; the output is added to the log.
Runner = Callable[[Sequence[str], Path, Mapping[str, str], Path], int]


@dataclass(frozen=True, slots=True)
class Environment:
    """A side's environment: its interpreter, its folder, and what was installed there (the requirements of each
    distribution) by which commands in how many seconds. `roots` are the folders where it finds modules of its own."""

    python: Path
    folder: Path
    roots: tuple[Path, ...]
    installed: dict[str, frozenset[str]]
    commands: tuple[str, ...]
    seconds: float


def run_logged(command: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path) -> int:
    """Run a command to its end with its output in `log`. What it started ends with it if we are interrupted."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def make_environment(
    side: str,
    repository: Repository,
    checkout: Path,
    folder: Path,
    install: Sequence[Sequence[str]] | None,
    log: Path,
    run: Runner = run_logged,
) -> Environment:
    """The environment of `side` in `folder`, its packages installed from `checkout`; output of builds goes to `log`.

    `install` are commands in place of the usual installation, run in the checkout, with {python}, {checkout} and
    {repository} (the user's tree) filled in; none of them: nothing is installed. Raises InputError with the last words
    of a build that failed.
    """
    begin = time.monotonic()
    log.unlink(missing_ok=True)
    venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(folder)
    scheme = {"base": str(folder), "platbase": str(folder)}
    python = Path(sysconfig.get_path("scripts", "venv", scheme), "python")
    own = Path(sysconfig.get_path("purelib", "venv", scheme))
    packages = _packages(repository, checkout) if install is None else []
    on_path = [] if packages or install else [checkout]
    _overlay(repository, checkout, folder, own, on_path)
    filled = {"{python}": str(python), "{checkout}": str(checkout), "{repository}": str(repository.root)}
    if install is None:
        commands = [(package, _installing(python, package)) for package in packages]
    else:
        commands = [(checkout, [_filled(part, filled) for part in command]) for command in install]
    for where, command in commands:
        try:
            code = run(command, where, build_variables(os.environ), log)
        except OSError as error:
            place = error.filename or command[0]
            raise InputError(f"{side}: cannot be installed, {place}: {error.strerror}; see --install") from None
        if code:
            raise InputError(
                f"{side}: installing {where.relative_to(checkout.parent)} failed ({_last_words(log)}); the whole "
                f"output is in {log}; give --install COMMAND if it is built in another way, --install '' if not at all"
            )
    if packages:
        # What a build leaves behind is not the commit's. (A command of the user's may have put it there to be used.)
        clean(checkout)
    installed = {d.metadata["Name"]: frozenset(d.requires or ()) for d in distributions(path=[str(own)])}
    shown = tuple(" ".join(command) for _, command in commands)
    return Environment(python, folder, (own, *on_path), installed, shown, time.monotonic() - begin)


def build_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a side's processes: without those that lead Python or git elsewhere."""
    return {name: value for name, value in git_variables(variables).items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _packages(repository: Repository, checkout: Path) -> list[Path]:
    """The folders of the checkout to install: its top, if it is a package, and those that the parent has installed
    from the user's tree."""
    sources = [source.resolve() for source in map(installed_from, distributions()) if source is not None]
    places = [source.relative_to(repository.root) for source in sources if source.is_relative_to(repository.root)]
    return [checkout / place for place in dict.fromkeys([Path(), *places]) if _is_package(checkout / place)]


def _is_package(folder: Path) -> bool:
    return (folder / "setup.py").exists() or "build-system" in _project(folder)


def _project(folder: Path) -> dict[str, object]:
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a file that is no TOML is the build's to complain of
        return {}


def _installing(python: Path, package: Path) -> list[str]:
    """The command that installs the package in its working folder, with the build tools of the parent if it has them.

    Without them the installer fetches what the package asks for, as it does everywhere else.
    """
    here = _has_build_tools(package)
    if _installed("pip"):
        # The parent's pip is seen from the side; what is in the parent must not count as installed.
        options = ["--isolated", "--no-index", "--no-build-isolation"] if here else ["--no-user"]
        quiet = ["--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
        return [str(python), "-m", "pip", "install", "--no-deps", "--ignore-installed", *options, *quiet, "."]
    uv = shutil.which("uv")
    if uv is not None:
        options = ["--no-build-isolation", "--offline"] if here else []
        quiet = ["--reinstall", "--compile-bytecode"]
        return [uv, "pip", "install", "--python", str(python), "--no-deps", *options, *quiet, "."]
    raise InputError("there is neither pip nor uv here to install a side with; install pip or give --install COMMAND")


def _has_build_tools(package: Path) -> bool:
    """Whether all that the package asks for its build is installed here, whatever the versions."""
    build = _project(package).get("build-system")
    asked = build.get("requires", []) if isinstance(build, dict) else ["setuptools"]
    for name in asked if isinstance(asked, list) else []:
        if not _installed(re.split(r"[^A-Za-z0-9._-]", str(name).strip(), maxsplit=1)[0]):
            return False
    return True


def _installed(name: str) -> bool:
    """Whether a distribution is installed here, from its metadata: to look for the module `pip` makes setuptools take
    its hands off distutils in this process, and torch compiles through them."""
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def _overlay(repository: Repository, checkout: Path, folder: Path, own: Path, on_path: list[Path]) -> None:
    """Have every Python of the environment run `overlay` first."""
    given = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    told = {
        "tree": str(repository.root),
        "own": [str(checkout), str(folder)],
        # A Python that runs in the user's folder finds modules there; one of the side finds those of the checkout.
        "paths": [str(checkout / repository.folder), *map(str, on_path), *given],
        "sites": [*([site.getusersitepackages()] if site.ENABLE_USER_SITE else []), *site.getsitepackages()],
    }
    name = "_dlmbench_side"
    shutil.copyfile(overlay.__file__, own / f"{name}.py")
    (own / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    # Site files run in the order of their names: what installing adds is then there before this one.
    (own / f"zz{name}.pth").write_text(f"import {name}; {name}.main()\n", encoding="utf-8")


def _filled(part: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _last_words(log: Path) -> str:
    """The last line of a build's output that says something: pip repeats and comments on what failed."""
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace"))  # compilers write in colours
    lines = ["".join(filter(str.isprintable, line)).strip(" │╰─>×") for line in text.expandtabs().splitlines()]
    if "[end of output]" in lines:
        lines = lines[: lines.index("[end of output]")]
    said = [line for line in lines if line and not line.startswith(("note:", "hint:", "[notice]"))]
    return said[-1][:300] if said else "it said nothing"
