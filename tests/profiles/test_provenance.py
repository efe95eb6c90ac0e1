"""Where code comes from, told of real repositories and hand-made installs: the truth, or why it is not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dlmbench.profiles.provenance import loaded_origins, origin_of, public_url
from dlmbench.profiles.record import Origin, WorkerInfo


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "a change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package and a plug-in's file in one commit, and what the commit does not hold."""
    root = tree(tmp_path.resolve() / "répo", {"src/kern/__init__.py": "1", "mine.py": "2", ".gitignore": "ignored.py"})
    git(root, "init", "--quiet")
    commit(root)
    return root


Installing = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Installing:
    """`install("kern", {files}, direct_url)` puts a distribution into a site folder, as an installer does."""

    def make(name: str, files: dict[str, str], direct: object = None) -> Path:
        site = tree(tmp_path.resolve() / "env" / "lib" / "site-packages", files)
        recorded = "".join(f"{quoted},sha256=x,1\n" for quoted in (f'"{n}"' if "," in n else n for n in files))
        metadata = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n", "RECORD": recorded}
        if direct is not None:
            metadata["direct_url.json"] = direct if isinstance(direct, str) else json.dumps(direct)
        tree(site / f"{name}-1.5.dist-info", metadata)
        return site

    return make


def test_what_git_tracks_has_the_commit_and_its_state(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    package, plugin = repository / "src" / "kern", repository / "mine.py"
    assert origin_of(package) == Origin(path=str(package), commit=head, dirty=False)
    assert origin_of(plugin) == Origin(path=str(plugin), commit=head, dirty=False)
    assert origin_of(plugin).state == head
    plugin.write_text("3")
    assert origin_of(plugin).state == f"{head}-dirty"
    assert origin_of(package).dirty is False


def test_a_link_into_a_repository_is_where_it_leads(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kern").symlink_to(repository / "src" / "kern")
    assert origin_of(tmp_path / "elsewhere" / "kern") == origin_of(repository / "src" / "kern")


@pytest.mark.parametrize("name", ["ignored.py", "new.py", "missing.py"])
def test_what_the_commit_does_not_hold_has_none(name: str, repository: Path) -> None:
    """Even though the folder that it lies in is tracked."""
    if name != "missing.py":
        (repository / name).write_text("")
    origin = origin_of(repository / name)
    assert (origin.commit, origin.dirty) == (None, None)
    assert origin.why is not None


def test_a_copy_installed_from_a_folder_has_its_commit_while_it_is_that_commits(
    repository: Path, install: Installing
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    direct = {"url": repository.as_uri(), "dir_info": {}}
    assert "%C3%A9" in direct["url"]
    site = install("kern", {"kern/__init__.py": "1", "kern/_compiled.so": "machine code"}, direct)
    known = {"path": str(site / "kern"), "distribution": "kern", "version": "1.5", "source": str(repository)}
    assert origin_of(site / "kern") == Origin(**known, commit=head, dirty=False)
    # The folder has moved on: the copy is not what the folder's commit holds now.
    (repository / "src" / "kern" / "__init__.py").write_text("11")
    assert origin_of(site / "kern") == Origin(**known, commit=head, dirty=False)
    later = commit(repository)
    assert origin_of(site / "kern") == Origin(**known, commit=later, dirty=True)


def test_other_sources_of_an_installed_copy(install: Installing, tmp_path: Path) -> None:
    files = {"kern/__init__.py": "", "single.py": "", "odd,name.py": ""}
    vcs = {"vcs": "git", "commit_id": "abc", "requested_revision": "main"}
    cases: list[tuple[object, str | None, str | None, str | None]] = [
        (None, None, None, "installed from a package index"),
        ({"url": "https://u:s3cret@host/r.git?token=s3cret", "vcs_info": vcs}, "abc", "https://host/r.git", None),
        ({"url": "ssh://git@host/r.git", "vcs_info": vcs}, "abc", "ssh://host/r.git", None),
        ({"url": "https://s3cret@host/k.whl#sha", "archive_info": {}}, None, "https://host/k.whl", "from an archive"),
        ({"url": f"file://{tmp_path}/gone", "dir_info": {}}, None, f"{tmp_path}/gone", "git does not track"),
        ("{", None, None, "installed from a package index"),
        ("[]", None, None, "installed from a package index"),
    ]
    for direct, at, source, why in cases:
        site = install("kern", files, direct)
        for path in (site / "kern", site / "single.py", site / "odd,name.py"):
            origin = origin_of(path)
            assert (origin.commit, origin.source, origin.distribution, origin.version) == (at, source, "kern", "1.5")
            assert (why is None and origin.why is None) or str(why) in str(origin.why)
            assert "s3cret" not in origin.model_dump_json()


def test_an_installed_package_does_not_get_the_commit_of_the_repository_around_it(repository: Path) -> None:
    tree(repository, {".gitignore": "venv/", "venv/site-packages/kern/__init__.py": "1"})
    commit(repository)
    origin = origin_of(repository / "venv" / "site-packages" / "kern")
    assert (origin.commit, origin.why) == (None, "git does not track it, and no installed distribution lists it")


def test_public_urls() -> None:
    assert public_url("https://user:pass@host:8443/a/b.git?x=1#frag") == "https://host:8443/a/b.git"
    assert public_url("https://host/a@b") == "https://host/a@b"


def module(name: str, file: Path | None, package: bool = False) -> ModuleType:
    made = ModuleType(name)
    if file is not None:
        made.__file__ = str(file)
    if package:
        made.__path__ = []
    return made


def test_what_is_loaded_from_no_index_is_listed(repository: Path, install: Installing, tmp_path: Path) -> None:
    direct = {"url": repository.as_uri(), "dir_info": {}}
    site = install("kern", {"kern/__init__.py": "1", "kern/sub.py": "", "__editable___kern_finder.py": ""}, direct)
    install("indexed", {"indexed/__init__.py": "", "space/part.py": ""})
    unlisted = tree(site, {"unlisted.py": ""}) / "unlisted.py"
    local = tree(tmp_path.resolve() / "local", {"space/mine/__init__.py": "", "leak.py": ""})
    head = git(repository, "rev-parse", "HEAD")
    loaded = [
        module("json", Path(json.__file__), package=True),
        module("sys", None),
        module("__main__", repository / "mine.py"),
        module("kern", site / "kern" / "__init__.py", package=True),
        module("kern.sub", site / "kern" / "sub.py"),
        module("kern.leak", local / "leak.py"),  # a part of the package that comes from another place
        module("__editable___kern_finder", site / "__editable___kern_finder.py"),
        module("indexed", site / "indexed" / "__init__.py", package=True),
        module("unlisted", unlisted),
        module("space", None, package=True),
        module("space.part", site / "space" / "part.py"),
        module("space.mine", local / "space" / "mine" / "__init__.py", package=True),
        module(f"dlmbench_plugin:{repository}/mine.py", repository / "mine.py"),
        module("torch._ops", Path("_ops.py")),  # a name that is no file
    ]
    found = loaded_origins({made.__name__: made for made in loaded})
    assert {name: origin.commit for name, origin in found.items()} == {
        "kern": head,
        "kern.leak": None,
        "space.mine": None,
        f"{repository}/mine.py": head,
    }


def test_dlmbench_itself_is_always_listed() -> None:
    found = loaded_origins({"dlmbench": sys.modules["dlmbench"]})
    assert Path(found["dlmbench"].path).resolve() == Path(sys.modules["dlmbench"].__file__ or "").resolve().parent


def test_records_of_before_say_nothing_of_origins() -> None:
    old = {
        "pid": 1, "package_path": "p", "package_version": "0", "commit": None, "python": "3", "torch": "2",
        "device": "cpu", "threads": 1,
    }  # fmt: skip
    assert WorkerInfo.model_validate(old).origins is None
