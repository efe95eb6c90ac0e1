"""What a side's workers say, held against how it was made: every way not to be the ref is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.gate.checkout import check_out
from dlmbench.bench.gate.environment import Environment
from dlmbench.bench.gate.proof import greeted, prove
from dlmbench.bench.gate.repository import Revision, find_repository
from dlmbench.bench.gate.sides import Made, Side
from dlmbench.bench.handle import Launch
from dlmbench.bench.worker import PROTOCOL
from dlmbench.profiles.record import Origin, WorkerInfo

LIBRARY = Origin(path="/elsewhere/site-packages/dlmbench", distribution="dlmbench", version="1", why="from an index")


def info(origins: dict[str, Origin] | None, **fields: Any) -> WorkerInfo:
    values: dict[str, Any] = {
        "pid": 1, "package_path": "/elsewhere/site-packages/dlmbench", "package_version": "1", "commit": None,
        "python": "3", "torch": "2", "device": "cpu", "threads": 1, "origins": origins,
    }  # fmt: skip
    return WorkerInfo(**(values | fields))


@pytest.fixture
def side(scratch: Callable[..., Any], tmp_path: Path) -> Side:
    """Base, whose environment holds package `kern`; in the user's tree lies another state of it."""
    repo = scratch("repo")
    commit = repo.commit({"mine.py": "1", "kern/__init__.py": "1"})
    repository = find_repository(repo.root)
    checkout, folder = tmp_path.resolve() / "side" / "checkout", tmp_path.resolve() / "side" / "environment"
    check_out(repository, commit, checkout)
    (folder / "site-packages" / "kern").mkdir(parents=True)
    (folder / "site-packages" / "kern" / "__init__.py").write_text("1")
    environment = Environment(folder / "bin/python", folder, (folder / "site-packages",), {}, (), 0.0)
    return Side("base", Launch(), Made(repository, Revision("main", commit), checkout, environment))


def places(side: Side) -> tuple[str, str, str, str]:
    assert side.made is not None
    made = side.made
    return str(made.repository.root), str(made.checkout), str(made.environment.roots[0]), made.revision.commit


def test_code_of_the_side_over_the_parents_libraries_is_proof(side: Side) -> None:
    _, checkout, site, commit = places(side)
    for own in (
        {f"{checkout}/mine.py": Origin(path=f"{checkout}/mine.py", commit=commit)},
        # Files that a build adds make an installed copy differ from its commit.
        {"kern": Origin(path=f"{site}/kern", commit=commit, dirty=True, distribution="kern")},
    ):
        # A worker of the pair's other side may run nothing of the repository.
        assert prove(side, [info({"dlmbench": LIBRARY}), info({"dlmbench": LIBRARY, **own})]) is None


def test_what_is_no_proof(side: Side) -> None:
    tree, checkout, site, commit = places(side)
    good = {"kern": Origin(path=f"{site}/kern", commit=commit)}
    cases: dict[str, dict[str, Origin]] = {
        "base: its workers ran nothing of": {"dlmbench": LIBRARY},
        "kern is of commit 0123456789ab, not of": {"kern": Origin(path=f"{site}/kern", commit="0123456789abcdef")},
        r"kern is of no known commit \(installed from a package index\)": {
            "kern": Origin(path=f"{site}/kern", why="installed from a package index")
        },
        "mine.py was loaded from .*, which is the working tree itself": good
        | {"mine.py": Origin(path=f"{tree}/mine.py", commit=commit)},
        "kern was loaded from /elsewhere/kern, and not from the copy that was made": {
            "mine.py": Origin(path=f"{checkout}/mine.py", commit=commit),
            "kern": Origin(path="/elsewhere/kern", commit=commit),
        },
        # A part of the package that an editable install of another checkout has found.
        "kern.new was loaded from /elsewhere/kern/new.py": good | {"kern.new": Origin(path="/elsewhere/kern/new.py")},
    }
    for words, origins in cases.items():
        reason = prove(side, [info(origins)])
        assert reason is not None, words
        assert reason.code == "not_the_ref"
        with pytest.raises(ValueError, match=words):
            raise ValueError(reason.message)
    assert prove(side, []) is not None


def test_a_checkout_that_changed_proves_nothing(side: Side) -> None:
    _, checkout, site, commit = places(side)
    good = [info({"kern": Origin(path=f"{site}/kern", commit=commit)})]
    (Path(checkout) / "left by a build").write_text("")
    assert prove(side, good) is None
    (Path(checkout) / "mine.py").write_text("2")
    reason = prove(side, good)
    assert reason is not None
    assert "mine.py in its checkout is no longer as in its commit" in reason.message


def test_an_old_worker_is_judged_by_where_its_package_lies(side: Side) -> None:
    """It says no origins. The repository is then dlmbench's own, and the package lies in the side or does not."""
    _, checkout, _, _ = places(side)
    assert prove(side, [info(None, package_path=f"{checkout}/kern")]) is None
    assert prove(side, [info(None)]) is not None


def test_protocols(side: Side) -> None:
    said = info({"dlmbench": LIBRARY}).model_dump()
    assert greeted(side, {"protocol": PROTOCOL, "info": said}) == info({"dlmbench": LIBRARY})
    # A newer worker of the same protocol says more.
    assert greeted(side, {"protocol": PROTOCOL, "info": said | {"mood": "good"}}) == info({"dlmbench": LIBRARY})
    # An older one neither numbers its protocol nor says where its code comes from.
    assert greeted(side, {"info": {k: v for k, v in said.items() if k != "origins"}}).origins is None
    with pytest.raises(InputError, match=rf"base: its worker speaks protocol {PROTOCOL + 1}, .* up to {PROTOCOL}"):
        greeted(side, {"protocol": PROTOCOL + 1, "info": said})
    for reply in ({}, {"info": None}, {"info": {"pid": "x"}}, {"info": [1]}):
        with pytest.raises(InputError, match="does not say who it is"):
            greeted(side, reply)
