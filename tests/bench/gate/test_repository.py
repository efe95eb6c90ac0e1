"""What a ref names, and the working tree as a commit: every way of asking, every refusal, and nothing touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.gate.repository import base_revision, find_repository, head_revision
from dlmbench.profiles.git import git


def one_line(caught: pytest.ExceptionInfo[InputError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_way_to_name_a_commit(scratch: Callable[..., Any]) -> None:
    repo = scratch()
    first = repo.commit({"a.py": "1"})
    repo.git("tag", "v1")
    repo.git("tag", "-a", "v1-signed", "-m", "a tag with an object of its own")
    repo.git("update-ref", "refs/remotes/origin/main", first)
    repo.git("branch", "old")
    repo.commit({"a.py": "2"})
    repository = find_repository(repo.root)
    for ref in ("v1", "v1-signed", "origin/main", "old", "HEAD~1", "main^", first, first[:10]):
        assert base_revision(repository, ref).commit == first, ref


def test_the_merge_base_leaves_out_what_came_to_main_later(scratch: Callable[..., Any]) -> None:
    repo = scratch()
    fork = repo.commit({"a.py": "1"})
    repo.git("checkout", "--quiet", "-b", "feature")
    repo.commit({"b.py": "2"})
    repo.git("checkout", "--quiet", "main")
    tip = repo.commit({"a.py": "3"})
    repo.git("checkout", "--quiet", "feature")
    repository = find_repository(repo.root)
    assert base_revision(repository, "main").commit == tip
    assert base_revision(repository, "main", merge_base=True).commit == fork
    repo.git("checkout", "--quiet", "--orphan", "stranger")
    repo.commit({})
    with pytest.raises(InputError, match="no common commit"):
        base_revision(repository, "main", merge_base=True)


@pytest.mark.parametrize(
    "ref",
    ["", "-", "--upload-pack=touch pwned", "--output=pwned", "-Cpwned", "a b", "a\nb", "a\0b", "main; touch pwned",
     "$(touch pwned)", "`touch pwned`", "main..main", "main:a.py", "main^{tree}", "../main", "\x1b[31m"],
)  # fmt: skip
def test_a_hostile_name_is_refused_in_a_line_and_reaches_no_shell(ref: str, scratch: Callable[..., Any]) -> None:
    repo = scratch()
    repo.commit({"a.py": "1"})
    before = repo.everything()
    with pytest.raises(InputError) as caught:
        base_revision(find_repository(repo.root), ref)
    assert one_line(caught).isprintable()
    assert repo.everything() == before


def test_places_without_a_working_tree_are_refused(scratch: Callable[..., Any], tmp_path: Path) -> None:
    bare, unborn = scratch("bare", "--bare"), scratch("unborn")
    (tmp_path / "plain").mkdir()
    for folder, words in (
        (tmp_path / "plain", "no git repository"),
        (tmp_path / "missing", "no such folder"),
        (bare.root, "bare repository"),
        (unborn.root / ".git", "no git repository can be used"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            find_repository(folder)
        assert str(folder) in one_line(caught)
    with pytest.raises(InputError, match="no commit yet"):
        head_revision(find_repository(unborn.root), tmp_path / "scratch")


@pytest.mark.parametrize("ref", ["origin/old", "HEAD~1", "v1"])
def test_a_shallow_clone_is_told_the_command_that_helps(ref: str, scratch: Callable[..., Any], tmp_path: Path) -> None:
    """As actions/checkout leaves it: one commit deep. The remedy in the message is run, and helps."""
    origin = scratch("origin")
    first = origin.commit({"a.py": "1"})
    origin.git("branch", "old")
    origin.git("tag", "v1")
    origin.commit({"a.py": "2"})
    clone = scratch("clone")
    clone.git("remote", "add", "origin", f"file://{origin.root}")
    clone.git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", "main")
    clone.git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    with pytest.raises(InputError, match="no such commit") as caught:
        base_revision(find_repository(clone.root), ref)
    remedy = one_line(caught).split("run: git ")[1].partition(" (in CI")[0].split()
    clone.git(*remedy)
    assert base_revision(find_repository(clone.root), ref).commit == first


def test_a_shallow_clone_has_no_merge_base_until_it_has_history(scratch: Callable[..., Any]) -> None:
    origin = scratch("origin")
    fork = origin.commit({"a.py": "1"})
    origin.git("branch", "feature")
    origin.commit({"a.py": "2"})
    clone = scratch("clone")
    clone.git("remote", "add", "origin", f"file://{origin.root}")
    origin.git("checkout", "--quiet", "feature")
    origin.commit({"b.py": "3"})
    clone.git("fetch", "--quiet", "--depth=1", "origin", "main", "feature")
    clone.git("checkout", "--quiet", "--detach", "origin/feature")
    with pytest.raises(InputError, match="run: git fetch --unshallow"):
        base_revision(find_repository(clone.root), "origin/main", merge_base=True)
    clone.git("fetch", "--quiet", "--unshallow")
    assert base_revision(find_repository(clone.root), "origin/main", merge_base=True).commit == fork


def test_a_clean_tree_is_its_own_commit(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    head = repo.commit({"a.py": "1", ".gitignore": "ignored/"})
    repo.put("ignored/big.bin", "x")
    revision = head_revision(find_repository(repo.root), tmp_path / "scratch")
    assert (revision.commit, revision.dirty, revision.on, revision.notes) == (head, False, None, ())


def test_a_changed_tree_is_a_snapshot_and_nothing_is_touched(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    files = {"same.py": "0", "changed.py": "1", "removed.py": "2", "staged.py": "3", ".gitignore": "*.log\n"}
    head = repo.commit(files)
    repo.put("changed.py", "stashed")
    repo.git("stash")
    repo.put("changed.py", "changed")
    repo.put("staged.py", "staged")
    repo.git("add", "staged.py")
    repo.put("staged.py", "and changed again")
    (repo.root / "removed.py").unlink()
    repo.put("pkg/new ☃.py", "new")
    repo.put("noise.log", "ignored")
    repo.put("env/pyvenv.cfg", "home = somewhere")
    repo.put("env/lib/torch.py", "large")
    before = repo.everything()
    repository = find_repository(repo.root / "pkg")
    revision = head_revision(repository, tmp_path / "scratch")
    assert repo.everything() == before
    assert (revision.dirty, revision.on) == (True, head)
    assert revision.notes == ("head is without env/, which git does not track",)
    variables = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(tmp_path / "scratch" / "objects")}

    def shown(*arguments: str) -> str:
        return git(repo.root, *arguments, variables=variables).strip()

    kept = {
        name: shown("show", f"{revision.commit}:{name}")
        for name in shown("ls-tree", "-r", "-z", "--name-only", revision.commit).strip("\0").split("\0")
    }
    assert kept == {
        "same.py": "0",
        "changed.py": "changed",
        "staged.py": "and changed again",
        "pkg/new ☃.py": "new",
        ".gitignore": "*.log",
    }
    assert shown("rev-parse", f"{revision.commit}^") == head
    # The same tree is the same commit, whenever it is asked for.
    assert head_revision(repository, tmp_path / "again").commit == revision.commit


def test_a_change_in_the_second_of_the_commit_is_seen(scratch: Callable[..., Any], tmp_path: Path) -> None:
    """Of the same size and the same time as what was committed: git looks into such a file because its index is no
    younger, which a copy of the index must not be either."""
    repo = scratch()
    repo.git("config", "core.trustctime", "false")
    path, index = repo.put("a.py", "V=1"), repo.root / ".git" / "index"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    repo.commit({})
    path.write_text("V=2")
    for touched in (path, index):
        os.utime(touched, (1_700_000_000, 1_700_000_000))
    assert head_revision(find_repository(repo.root), tmp_path / "scratch").dirty


def test_untracked_data_is_not_hashed_by_the_gigabyte(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    repo.commit({"a.py": "1"})
    with open(repo.root / "weights.bin", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(InputError, match=r"315 MB are neither tracked nor ignored, 'weights.bin'.*gitignore"):
        head_revision(find_repository(repo.root), tmp_path / "scratch")


def test_a_linked_worktree_is_a_repository(scratch: Callable[..., Any], tmp_path: Path) -> None:
    repo = scratch()
    first = repo.commit({"pkg/a.py": "1"})
    repo.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "-b", "side")
    (tmp_path / "linked" / "pkg" / "a.py").write_text("2")
    repository = find_repository(tmp_path / "linked" / "pkg")
    assert (repository.root, str(repository.folder)) == (tmp_path / "linked", "pkg")
    revision = head_revision(repository, tmp_path / "scratch")
    assert (revision.dirty, revision.on) == (True, first)


def test_a_hooks_environment_does_not_lead_elsewhere(
    scratch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets GIT_DIR for its hooks: a gate run from one would look into the wrong repository."""
    here, elsewhere = scratch("here"), scratch("elsewhere")
    commit = here.commit({"a.py": "1"})
    elsewhere.commit({"b.py": "2"})
    monkeypatch.setenv("GIT_DIR", str(elsewhere.root / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(elsewhere.root / ".git" / "index"))
    assert base_revision(find_repository(here.root), "main").commit == commit


def test_without_git_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="git is not installed"):
        find_repository(tmp_path)
    assert subprocess.run(["/bin/sh", "-c", "command -v git"], capture_output=True).returncode != 0
