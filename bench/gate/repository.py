"""The user's repository: what a ref names in it, and its working tree as a commit, with not a byte of it changed.

A snapshot of changes that nobody has committed goes to an object store of our own, beside the repository's: no branch,
index, stash or object of the user's is touched, so there is nothing to put back, whatever may end us.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ... import InputError
from ...profiles.git import GitError, git, git_state

# Untracked files above this are data that someone forgot to ignore; hashing them would take minutes. Bytes.
_UNTRACKED_LIMIT = 256 << 20


@dataclass(frozen=True, slots=True)
class Repository:
    """A working tree: its top folder, the folder in it where the user stands (relative), its shared git folder."""

    root: Path
    folder: Path
    common: Path
    shallow: bool

    @property
    def objects(self) -> Path:
        return self.common / "objects"

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)


@dataclass(frozen=True, slots=True)
class Revision:
    """What a side is made of: a commit, and the ref or words that led to it.

    With `dirty` the commit is a snapshot of a working tree that differs from its own commit `on`. `notes` are
    sentences on what of the working tree the commit does not hold.
    """

    ref: str
    commit: str
    dirty: bool = False
    on: str | None = None
    notes: tuple[str, ...] = ()


def find_repository(folder: Path) -> Repository:
    """The repository whose working tree holds `folder`. Raises InputError where there is none."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --repo the folder of a git repository")
    try:
        if git(folder, "rev-parse", "--is-bare-repository").strip() == "true":
            raise InputError(f"{folder}: a bare repository has no working tree to compare; give --repo a checkout")
        root = Path(git(folder, "rev-parse", "--show-toplevel").removesuffix("\n"))
        common = folder / git(folder, "rev-parse", "--git-common-dir").removesuffix("\n")
        shallow = git(folder, "rev-parse", "--is-shallow-repository").strip() == "true"
    except GitError as error:
        raise InputError(f"{folder}: no git repository can be used here ({error}); give --repo one") from None
    return Repository(root.resolve(), folder.relative_to(root.resolve()), common.resolve(), shallow)


def base_revision(repository: Repository, ref: str, *, merge_base: bool = False) -> Revision:
    """The commit that `ref` names, or with `merge_base` the one where HEAD left it. Raises InputError with a remedy."""
    if not ref or ref.startswith("-") or not ref.isprintable():
        raise InputError(f"--against {ref!r}: not a revision; give a branch, a tag or a commit")
    commit = _commit(repository, ref)
    if commit is None:
        raise InputError(f"--against {ref}: no such commit in {repository.root}; {_fetching(repository, ref)}")
    if not merge_base:
        return Revision(ref, commit)
    try:
        found = repository.git("merge-base", commit, "HEAD").split()
    except GitError:
        found = []
    if not found:
        remedy = (
            "run: git fetch --unshallow (in CI: fetch-depth: 0)" if repository.shallow else "leave --merge-base out"
        )
        raise InputError(f"--against {ref}: it and HEAD have no common commit in {repository.root}; {remedy}")
    return Revision(f"merge base of {ref}", found[0])


def head_revision(repository: Repository, scratch: Path) -> Revision:
    """The working tree as it is: its commit if nothing differs, else a snapshot, whose objects go below `scratch`.

    A snapshot holds what is tracked, as it lies there, and what is neither tracked nor ignored: a module that was
    written today is part of what would be measured. Raises InputError.
    """
    head = _commit(repository, "HEAD")
    if head is None:
        raise InputError(f"{repository.root}: the repository has no commit yet; make one to compare with")
    try:
        revision = Revision("working tree", head, notes=_submodule_notes(repository, head))
        if not repository.git("status", "--porcelain", "--untracked-files=normal").strip():
            return revision
        return _snapshot(repository, scratch, revision)
    except GitError as error:
        raise InputError(f"{repository.root}: its working tree cannot be recorded ({error})") from None


def submodules(root: Path, commit: str) -> dict[str, str]:
    """The commits of the submodules in a commit of the repository at `root`, by path. Raises GitError."""
    entries = [entry.split("\t", 1) for entry in git(root, "ls-tree", "-r", "-z", commit).split("\0") if entry]
    return {path: meta.split()[2] for meta, path in entries if meta.startswith("160000 ")}


def alternate(folder: Path) -> str:
    """An object store as git takes it in a list of others: quoted, since a path may hold what parts the list."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in os.fsencode(folder)) + '"'


def _commit(repository: Repository, ref: str) -> str | None:
    try:
        return repository.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    except GitError:
        return None


def _fetching(repository: Repository, ref: str) -> str:
    """The command that would bring `ref` here."""
    remote, _, branch = ref.partition("/")
    if branch and remote in repository.git("remote").split():
        depth = "--depth=1 " if repository.shallow else ""
        return f"run: git fetch {depth}{remote} +refs/heads/{branch}:refs/remotes/{remote}/{branch}"
    if repository.shallow:
        return "this clone is shallow, run: git fetch --unshallow --tags (in CI: fetch-depth: 0)"
    return "run git fetch, or give a branch, a tag or a commit that is there"


def _submodule_notes(repository: Repository, head: str) -> tuple[str, ...]:
    changed = []
    for path in submodules(repository.root, head):
        state = git_state(repository.root / path) if (repository.root / path / ".git").exists() else None
        if state is not None and state["dirty"]:
            changed.append(f"submodule {path} has changes that are not committed in it; head is without them")
    return tuple(changed)


def _snapshot(repository: Repository, scratch: Path, clean: Revision) -> Revision:
    """The working tree as a commit on `clean`, made with an index and an object store below `scratch`."""
    index, objects = scratch / "index", scratch / "objects"
    objects.mkdir(parents=True)
    # The user's index knows which files have not changed: without it each one would be read. Its time goes with it: git
    # looks into a file that is no older than the index, however little else about it has changed.
    used = repository.root / repository.git("rev-parse", "--git-path", "index").removesuffix("\n")
    if used.exists():
        shutil.copy2(used, index)
    stamp = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _SIGNATURE.items()}
    variables = stamp | {
        "GIT_INDEX_FILE": str(index),
        "GIT_OBJECT_DIRECTORY": str(objects),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": alternate(repository.objects),
    }

    def run(*arguments: str, given: str = "") -> str:
        # A split index would leave a part of itself in the user's repository.
        return git(repository.root, "-c", "core.splitIndex=false", *arguments, variables=variables, given=given)

    untracked, notes = _untracked(repository, scratch)
    run("add", "--update", "--", ".")
    run("update-index", "--add", "-z", "--stdin", given="\0".join(untracked))
    tree = run("write-tree").strip()
    if tree == repository.git("rev-parse", f"{clean.commit}^{{tree}}").strip():
        return replace(clean, notes=(*clean.notes, *notes))
    commit = run("commit-tree", tree, "-p", clean.commit, given=f"The working tree on {clean.commit}\n").strip()
    return Revision(clean.ref, commit, dirty=True, on=clean.commit, notes=(*clean.notes, *notes))


# No one's name and no time: the same tree makes the same commit.
_SIGNATURE = {"NAME": "dlmbench", "EMAIL": "dlmbench@localhost", "DATE": "1700000000 +0000"}


def _untracked(repository: Repository, scratch: Path) -> tuple[list[str], tuple[str, ...]]:
    """The files that are neither tracked nor ignored, but for virtual environments and other repositories."""
    listed = repository.git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    environments = {name.rpartition("/")[0] for name in listed if name.rpartition("/")[2] == "pyvenv.cfg"}
    names, left, sizes = [], [], {}
    for name in filter(None, listed):
        path = repository.root / name
        if name.endswith("/"):  # git does not look into another repository
            left.append(name)
        elif environments.isdisjoint(_folders(name)) and not path.is_relative_to(scratch):
            names.append(name)
            sizes[name] = path.lstat().st_size
    if sum(sizes.values()) > _UNTRACKED_LIMIT:
        largest = max(sizes, key=sizes.__getitem__)
        raise InputError(
            f"{repository.root}: {sum(sizes.values()) / 1e6:.0f} MB are neither tracked nor ignored, {largest!r} the "
            f"largest; add what is data to .gitignore, so that head is what you would commit"
        )
    left += [f"{name}/" for name in environments]
    return names, tuple(f"head is without {name}, which git does not track" for name in sorted(left))


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts))]
