"""Base and head made from a real repository: each runs its own code, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlmbench import InputError
from dlmbench.bench.gate import environment
from dlmbench.bench.gate.proof import greeted, prove, same_code
from dlmbench.bench.gate.repository import find_repository
from dlmbench.bench.gate.sides import Side, commanded, comparison_notes, placed, prepared
from dlmbench.bench.handle import WorkerHandle
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import Cell, WorkerInfo

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "kern"
version = "1.0"
dependencies = ["{needs}"]
"""
GENERATOR = """
import torch
from kern import SPEED

class Counting:
    side = "ar"
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        out = torch.full((request.prompt_ids.shape[0], request.length), SPEED, dtype=torch.int64)
        for i in range(SPEED):
            with observer.forward("target", "decode", 1, 1, 1, 1, "causal"):
                pass
        observer.write(None, out, 0)
        return out
"""


def python_of(side: Side, code: str) -> str:
    """What a plain Python of the side prints, started as its workers are."""
    assert side.made is not None
    variables = {**os.environ, **side.launch.variables}
    environment = {name: value for name, value in variables.items() if value is not None}
    command = [*side.launch.command[:2], "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=side.launch.folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loading(generator: str) -> dict[str, Any]:
    cell = Cell(pair="small", side="ar", generator=generator, length=4)
    return {
        "config": load_pair("small").ar.backbone.model_dump(), "weights": "random", "seed": 0, "dtype": "float32",
        "device": "cpu", "threads": 1, "prompts": None, "tokenizer": "source", "cells": [cell.model_dump()],
    }  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A package in src-layout, which the parent finds in the user's tree; head has changes that are not committed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        root = tmp_path_factory.mktemp("package").resolve() / "a répo"
        logs = root.parent / "logs"
        for folder in (root / "src" / "kern", root / "bench", logs, root.parent / "tmp"):
            folder.mkdir(parents=True)
        (root / "pyproject.toml").write_text(PYPROJECT.format(needs="torch"))
        (root / "src" / "kern" / "__init__.py").write_text("SPEED = 1\n")
        (root / "bench" / "mine.py").write_text(GENERATOR)
        for arguments in (
            ("init", "-q"),
            ("add", "."),
            ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm1"),
        ):
            subprocess.run(["git", "-C", root, *arguments], check=True)
        (root / "src" / "kern" / "__init__.py").write_text("from .fresh import SPEED\n")
        (root / "src" / "kern" / "fresh.py").write_text("SPEED = 2\n")
        (root / "pyproject.toml").write_text(PYPROJECT.format(needs="torch>=2"))
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("TMPDIR", str(root.parent / "tmp"))
        patch.setattr("tempfile.tempdir", None)
        said: list[str] = []
        with prepared(find_repository(root / "bench"), "HEAD", logs=logs, say=said.append) as (base, head):
            yield {"base": base, "head": head, "logs": logs, "said": said, "root": root}
        assert list((root.parent / "tmp").iterdir()) == []
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_each_side_imports_its_own_copy(package: dict[str, Any]) -> None:
    for name, value in (("base", "1"), ("head", "2")):
        side = package[name]
        shown = python_of(side, "import kern; print(kern.SPEED); print(kern.__file__)").splitlines()
        assert shown[0] == value
        assert Path(shown[1]).is_relative_to(side.made.environment.folder)
    assert python_of(package["base"], "import importlib.util as u; print(u.find_spec('kern.fresh'))") == "None"


def test_the_record_says_what_was_compared(package: dict[str, Any]) -> None:
    base, head = package["base"].record, package["head"].record
    assert (base.ref, base.dirty, base.on) == ("HEAD", False, None)
    assert (head.ref, head.dirty, head.on) == ("working tree", True, base.commit)
    assert head.commit != base.commit
    assert [" -m pip install " in command for command in (*base.install, *head.install)] == [True, True]
    assert package["said"] == [
        f"base: installing HEAD ({base.commit[:12]})",
        f"head: installing working tree ({head.commit[:12]})",
    ]
    assert comparison_notes(package["base"], package["head"]) == (
        "kern asks for other libraries at base and at head (torch, torch>=2); both ran with those here",
    )


@pytest.mark.slow
def test_workers_run_the_sides_code_and_prove_it(package: dict[str, Any]) -> None:
    """One real worker a side: the plug-in is a file of the checkout, and imports the package that was installed."""
    generator = placed(
        find_repository(package["root"] / "bench"), str(package["root"] / "bench" / "mine.py") + ":Counting"
    )
    assert generator == "mine.py:Counting"
    sides = [package["base"], package["head"]]
    handles = [WorkerHandle(package["logs"] / f"{s.name}.log", 1, "cpu", s.launch) for s in sides]
    for handle in handles:
        handle.send("load", **loading(generator))
    infos = []
    for side, handle, nfe in zip(sides, handles, (1, 2), strict=True):
        info = greeted(side, handle.receive(120))
        infos.append(info)
        assert info.origins is not None
        commit = side.record.commit
        plugin, kern = info.origins[str(side.launch.folder / "mine.py")], info.origins["kern"]
        assert (plugin.commit, plugin.dirty) == (commit, False)
        assert (kern.commit, kern.dirty, kern.distribution) == (commit, False, "kern")
        cell = Cell(pair="small", side="ar", generator=generator, length=4)
        handle.ask("open", 60, id="c", cell=cell.model_dump())
        sample = handle.ask("sample", 60, id="c", order=0, round=0, prompt=0, seed=0, started_s=0.0)["sample"]
        assert sample["nfe"] == nfe
        assert prove(side, [info]) is None
        handle.end()
    assert prove(sides[0], infos[1:]) is not None
    assert same_code(infos[:1], infos[1:]) is None
    assert not list(sides[0].made.checkout.rglob("__pycache__"))


def test_a_repository_that_is_no_package_is_on_the_path_as_it_is(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"tools/mine.py": "X = 1", "pyproject.toml": "[tool.ruff]\nline-length = 100\n"})
    repo.put("tools/mine.py", "import beside; X = beside.X")
    repo.put("tools/beside.py", "X = 2")
    before = repo.everything()
    with prepared(find_repository(repo.root / "tools"), "main", logs=tmp_path) as sides:
        for side, value in zip(sides, ("1", "2"), strict=True):
            shown = python_of(side, "import mine; print(mine.X); print(mine.__file__)").splitlines()
            assert shown == [value, str(side.made.checkout / "tools" / "mine.py")]
            assert side.record.install == ()
    assert repo.everything() == before
    assert not list(tmp_path.glob("*.log"))


def test_a_commit_is_compared_with_itself(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"mine.py": "X = 1"})
    with prepared(find_repository(repo.root), "HEAD", logs=tmp_path, install=()) as (base, head):
        assert base.record.commit == head.record.commit
        assert "A/A" in comparison_notes(base, head)[0]


def test_a_command_of_the_users_installs_a_side(scratch: Callable[..., Any], tmp_path: Path) -> None:
    """Run in the checkout with its Python, parted as by a shell and seen by none; what it leaves there stays."""
    repo = scratch()
    repo.commit({"make.py": "import sys; open('built', 'w').write(repr(sys.argv[1:]) + sys.prefix)"})
    command = '{python} make.py {checkout}/x "a b; touch pwned" {repository} {unknown}'
    with prepared(find_repository(repo.root), "HEAD", logs=tmp_path, install=[command]) as (base, _):
        assert base.made is not None
        made = base.made
        wanted = [f"{made.checkout}/x", "a b; touch pwned", str(repo.root), "{unknown}"]
        assert (made.checkout / "built").read_text() == repr(wanted) + str(made.environment.folder)
        assert sorted(p.name for p in made.checkout.iterdir()) == [".git", "built", "make.py"]


def test_a_build_that_fails_is_one_line_with_its_last_words(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"setup.py": "from setuptools import setup; setup()"})

    def fail(command: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path) -> int:
        assert "PYTHONPATH" not in variables
        log.write_text(
            "  × Building wheel did not run successfully.\n  │ exit code: 1\n  ╰─> [2 lines of output]\n"
            "      gcc -c kernel.c\n      \x1b[01;31mkernel.c:3:\x1b[m\terror: expected ';'\n      [end of output]\n\n"
            "  note: This error originates from a subprocess.\nerror: subprocess-exited-with-error\n"
        )
        return 1

    with (
        pytest.raises(InputError, match=r"base: installing .*kernel\.c:3: +error: expected ';'") as caught,
        prepared(find_repository(repo.root), "HEAD", logs=tmp_path, run=fail),
    ):
        pass
    assert str(tmp_path / "install-base.log") in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_side_is_installed_by_what_is_there(
    scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip; without it by uv; without either there is a remedy. What the build needs and is here is not fetched."""
    repo = scratch()
    repo.commit({"pyproject.toml": PYPROJECT.format(needs="torch")})
    commands: list[Sequence[str]] = []

    def record(command: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path) -> int:
        commands.append(command)
        return 0

    def prepare() -> Sequence[str]:
        with prepared(find_repository(repo.root), "HEAD", logs=tmp_path, run=record):
            return commands[-1]

    assert {"--no-index", "--no-build-isolation"} <= set(prepare())
    repo.put("pyproject.toml", PYPROJECT.format(needs="torch").replace('"setuptools"', '"no-such-builder-xyz >= 3"'))
    assert not {"--no-index", "--no-build-isolation", "--isolated"} & set(prepare())

    installed = environment._installed
    monkeypatch.setattr(environment, "_installed", lambda name: name != "pip" and installed(name))
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    assert prepare()[:4] == [str(uv), "pip", "install", "--python"]
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="neither pip nor uv"):
        prepare()


@pytest.mark.parametrize(
    ("install", "words"),
    [
        ('{python} -c "import nonsense_xyz"', "No module named 'nonsense_xyz'"),
        ("false", "it said nothing"),
        ("no-such-program-xyz", "cannot be installed, no-such-program-xyz: No such file"),
        ("echo 'unbalanced", "No closing quotation"),
    ],
)
def test_a_command_that_fails_is_one_line(
    install: str, words: str, scratch: Callable[..., Any], tmp_path: Path
) -> None:
    repo = scratch()
    repo.commit({"a.py": ""})
    with (
        pytest.raises(InputError, match=words) as caught,
        prepared(find_repository(repo.root), "HEAD", logs=tmp_path, install=[install]),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_an_error_in_the_block_leaves_nothing_behind(
    scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = scratch()
    repo.commit({"a.py": "1"})
    repo.put("a.py", "2")
    before = repo.everything(), repo.git("worktree", "list"), signal.getsignal(signal.SIGTERM)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def fail(error: type[BaseException]) -> None:
        with prepared(find_repository(repo.root), "HEAD", logs=tmp_path, install=()):
            assert len(list((tmp_path / "tmp").iterdir())) == 1
            raise error

    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
        assert list((tmp_path / "tmp").iterdir()) == []
    assert (repo.everything(), repo.git("worktree", "list"), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_sigterm_in_the_middle_of_a_build_leaves_nothing_behind(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit(
        {
            "build.py": "import os, sys, time\n"
            "with open(sys.argv[1], 'w') as file: file.write(f'{os.getpid()} ')\n"
            "time.sleep(60)\n"
        }
    )
    before = repo.everything()
    (tmp_path / "tmp").mkdir()
    code = """
import sys
from pathlib import Path
from dlmbench.bench.gate.repository import find_repository
from dlmbench.bench.gate.sides import prepared
root, logs = map(Path, sys.argv[1:])
with prepared(find_repository(root), "HEAD", logs=logs, install=[f"{{python}} build.py '{logs}/pid'"]):
    pass
"""
    command = [sys.executable, "-c", code, str(repo.root), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith(" "):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    build = int((tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not psutil.pid_exists(build)
    assert repo.everything() == before


def test_no_place_for_logs_is_one_line(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"a.py": ""})
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/install-base\.log: Not a directory"),
        prepared(find_repository(repo.root), "HEAD", logs=tmp_path / "file", install=["true"]),
    ):
        pass


def test_no_place_for_temporary_files_is_one_line(
    scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = scratch()
    repo.commit({"a.py": ""})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(InputError, match=r"no temporary folder can be made .*TMPDIR"),
        prepared(find_repository(repo.root), "HEAD", logs=tmp_path),
    ):
        pass


def test_generators_are_named_so_that_both_sides_find_theirs(
    scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = scratch("repo")
    for name in ("mine.py", "sub/other.py"):
        repo.put(name, "")
    repository = find_repository(repo.root / "sub")
    monkeypatch.chdir(repo.root / "sub")
    for given, wanted in {
        f"{repo.root}/mine.py:Mine": "../mine.py:Mine",
        "../mine.py:Mine": "../mine.py:Mine",
        "other.py:Other": "other.py:Other",
        f"{tmp_path}/elsewhere.py:Mine": f"{tmp_path.resolve()}/elsewhere.py:Mine",
        "../../elsewhere.py:Mine": f"{tmp_path.resolve()}/elsewhere.py:Mine",
        "kern.gen:Mine": "kern.gen:Mine",
        "ar": "ar",
        "hf:org/model": "hf:org/model",
    }.items():
        assert placed(repository, given) == wanted


def test_two_commands_are_sides_that_are_what_they_report(tmp_path: Path) -> None:
    base, head = commanded(f"{sys.executable} -m 'a b'", "env X=1 python")
    assert base.launch.command == (sys.executable, "-m", "a b")
    assert json.loads(head.record.model_dump_json())["command"] == ["env", "X=1", "python"]
    info = WorkerInfo(
        pid=1, package_path="p", package_version="1", commit="c", python="3", torch="2", device="cpu", threads=1
    )
    assert prove(base, [info]) is None
    assert "same code" in str(same_code([info], [info.model_copy(update={"pid": 2})]))
    assert same_code([info], [info.model_copy(update={"commit": "d"})]) is None
    for bad, words in (("", "empty"), ("no-such-program-xyz run", "no program"), ("'", "No closing quotation")):
        with pytest.raises(InputError, match=words):
            commanded("env", bad)
