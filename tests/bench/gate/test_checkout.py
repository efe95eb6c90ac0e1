"""A commit as a folder: its very files, with submodules, tags and filters, out of any kind of repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.gate.checkout import changed_files, check_out, clean
from dlmbench.bench.gate.repository import find_repository, head_revision
from dlmbench.profiles.git import git, git_state


@pytest.mark.parametrize("name", ["plain", "with space ☃", 'quote" back\\slash', "line\nbreak", "#hash"])
def test_a_checkout_is_the_commit_and_git_can_prove_it(name: str, scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch(name)
    first = repo.commit({"a.py": "1", "pkg/b.py": "2"})
    (repo.root / "run.sh").write_text("#!/bin/sh\n")
    (repo.root / "run.sh").chmod(0o755)
    (repo.root / "link").symlink_to("a.py")
    repo.git("tag", "v1", first)
    second = repo.commit({"a.py": "3"})
    before = repo.everything()
    folder = tmp_path / "out"
    assert check_out(find_repository(repo.root), second, folder) == ()
    assert git_state(folder) == {"commit": second, "dirty": False}
    assert (folder / "a.py").read_text() == (folder / "link").read_text() == "3"
    assert (folder / "pkg" / "b.py").read_text() == "2"
    assert os.access(folder / "run.sh", os.X_OK)
    assert git(folder, "describe", "--tags").startswith("v1-1-g")
    assert repo.everything() == before


def test_a_snapshot_is_checked_out_like_any_commit(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"a.py": "1"})
    repo.put("a.py", "2")
    repo.put("new.py", "3")
    before = repo.everything()
    repository = find_repository(repo.root)
    revision = head_revision(repository, tmp_path / "scratch")
    check_out(repository, revision.commit, tmp_path / "out", tmp_path / "scratch" / "objects")
    assert git_state(tmp_path / "out") == {"commit": revision.commit, "dirty": False}
    assert ((tmp_path / "out" / "a.py").read_text(), (tmp_path / "out" / "new.py").read_text()) == ("2", "3")
    assert repo.everything() == before


def test_what_changes_in_a_checkout_is_seen_and_what_a_build_leaves_is_removed(
    scratch: Callable[..., Any], tmp_path: Path
) -> None:
    repo = scratch()
    commit = repo.commit({"a.py": "1", ".gitignore": "build/"})
    folder = tmp_path / "out"
    check_out(find_repository(repo.root), commit, folder)
    for left in ("build/lib/a.py", "pkg.egg-info/PKG-INFO"):
        (folder / left).parent.mkdir(parents=True)
        (folder / left).write_text("")
    assert changed_files(folder) == []
    clean(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".git", ".gitignore", "a.py"]
    (folder / "a.py").write_text("2")
    assert changed_files(folder) == ["a.py"]


def test_no_hook_runs(scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's own nor those of a template that every new repository of the user's gets."""
    repo = scratch()
    commit = repo.commit({"a.py": "1"})
    template = tmp_path / "template" / "hooks"
    template.mkdir(parents=True)
    for hooks in (template, repo.root / ".git" / "hooks"):
        hooks.mkdir(exist_ok=True)
        (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch '{tmp_path}/hooked'\n")
        (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "config").write_text(f'[init]\n\ttemplateDir = "{tmp_path}/template"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    check_out(find_repository(repo.root), commit, tmp_path / "out")
    assert (tmp_path / "out" / "a.py").exists()
    assert not (tmp_path / "hooked").exists()


def test_the_repositorys_own_filters_apply(scratch: Callable[..., Any], tmp_path: Path) -> None:
    """As those of git-lfs do where they are set in the repository alone."""
    repo = scratch()
    repo.git("config", "filter.upper.smudge", "tr a-z A-Z")
    repo.git("config", "filter.upper.clean", "tr A-Z a-z")
    commit = repo.commit({".gitattributes": "*.txt filter=upper\n", "a.txt": "SHOUT"})
    check_out(find_repository(repo.root), commit, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "SHOUT"
    assert git_state(tmp_path / "out") == {"commit": commit, "dirty": False}


def test_submodules_come_from_the_working_tree(scratch: Callable[..., Any], tmp_path: Path) -> None:
    library, repo = scratch("library"), scratch("repo")
    old = library.commit({"lib.py": "old"})
    repo.git("submodule", "--quiet", "add", str(library.root), "deps/a lib")
    first = repo.commit({})
    new = library.commit({"lib.py": "new"})
    repo.git("-C", "deps/a lib", "fetch", "--quiet")
    repo.git("-C", "deps/a lib", "checkout", "--quiet", new)
    second = repo.commit({})
    repository = find_repository(repo.root)
    for commit, at, text in ((first, old, "old"), (second, new, "new")):
        folder = tmp_path / text
        assert check_out(repository, commit, folder) == ()
        assert (folder / "deps" / "a lib" / "lib.py").read_text() == text
        assert git_state(folder / "deps" / "a lib") == {"commit": at, "dirty": False}
        assert git_state(folder) == {"commit": commit, "dirty": False}
    repo.put("deps/a lib/lib.py", "not committed")
    revision = head_revision(repository, tmp_path / "scratch")
    assert (revision.commit, revision.dirty) == (second, False)
    assert "submodule deps/a lib has changes that are not committed in it" in revision.notes[0]


def test_a_submodule_that_is_not_here(scratch: Callable[..., Any], tmp_path: Path) -> None:
    """Not in the working tree at all: a note. There, but without the commit that base wants: refused, with a remedy."""
    library, repo = scratch("library"), scratch("repo")
    library.commit({"lib.py": "1"})
    repo.git("submodule", "--quiet", "add", str(library.root), "lib")
    commit = repo.commit({})
    (tmp_path / "clones").mkdir()
    repo.git("clone", "--quiet", str(repo.root), str(tmp_path / "clones" / "empty"))
    notes = check_out(find_repository(tmp_path / "clones" / "empty"), commit, tmp_path / "out")
    assert notes == ("submodule lib is not in the working tree, so it is left out here",)
    assert list((tmp_path / "out" / "lib").iterdir()) == []

    missing = library.commit({"lib.py": "2"})
    repo.git("update-index", "--cacheinfo", f"160000,{missing},lib")
    repo.git("commit", "--quiet", "-m", "a commit that the submodule here lacks")
    with pytest.raises(InputError, match="submodule lib: commit") as caught:
        check_out(find_repository(repo.root), repo.git("rev-parse", "HEAD"), tmp_path / "third")
    repo.git(*str(caught.value).partition("run: git ")[2].split())
    check_out(find_repository(repo.root), repo.git("rev-parse", "HEAD"), tmp_path / "fourth")
    assert (tmp_path / "fourth" / "lib" / "lib.py").read_text() == "2"


def test_the_users_repository_may_be_a_submodule_itself(scratch: Callable[..., Any], tmp_path: Path) -> None:
    library, repo = scratch("library"), scratch("repo")
    first = library.commit({"lib.py": "1"})
    repo.git("submodule", "--quiet", "add", str(library.root), "lib")
    repository = find_repository(repo.root / "lib")
    assert repository.root == repo.root / "lib"
    repo.put("lib/lib.py", "2")
    before = repo.everything()
    revision = head_revision(repository, tmp_path / "scratch")
    check_out(repository, first, tmp_path / "base")
    check_out(repository, revision.commit, tmp_path / "head", tmp_path / "scratch" / "objects")
    assert [(tmp_path / side / "lib.py").read_text() for side in ("base", "head")] == ["1", "2"]
    assert repo.everything() == before


@pytest.mark.parametrize("options", [("--depth=1",), ("--filter=blob:none", "--no-checkout")])
def test_clones_that_lack_objects(options: tuple[str, ...], scratch: Callable[..., Any], tmp_path: Path) -> None:
    """A shallow one has all of its own commit; from a partial one git fetches what is wanted, as it always does."""
    origin = scratch("origin")
    origin.git("config", "uploadpack.allowFilter", "true")
    origin.commit({"a.py": "1"})
    commit = origin.commit({"a.py": "2"})
    origin.git("clone", "--quiet", *options, f"file://{origin.root}", str(tmp_path / "clone"))
    check_out(find_repository(tmp_path / "clone"), commit, tmp_path / "out")
    assert (tmp_path / "out" / "a.py").read_text() == "2"
    assert git_state(tmp_path / "out") == {"commit": commit, "dirty": False}


def test_a_repository_of_sha256(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch("modern", "--object-format=sha256")
    commit = repo.commit({"a.py": "1"})
    assert len(commit) == 64
    check_out(find_repository(repo.root), commit, tmp_path / "out")
    assert git_state(tmp_path / "out") == {"commit": commit, "dirty": False}


def test_objects_that_are_gone_are_one_line(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    commit = repo.commit({"a.py": "1"})
    blob = repo.git("rev-parse", "HEAD:a.py")
    (repo.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(InputError, match=f"commit {commit[:12]} cannot be checked out") as caught:
        check_out(find_repository(repo.root), commit, tmp_path / "out")
    assert "\n" not in str(caught.value)
