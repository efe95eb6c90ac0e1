"""A run packed into one file: complete, reproducible, and never at the cost of another file."""

from __future__ import annotations

import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from dlmbench import InputError
from dlmbench.reports.archive import pack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "20260301-quick"
    (run / "figures").mkdir(parents=True)
    (run / "run.json").write_text('{"schema_version": 1}')
    (run / "trials.jsonl").write_text("")
    (run / "figures" / "b.png").write_bytes(bytes(range(256)))
    (run / "figures" / "a.png").write_bytes(b"a")
    return run


NAMES = [f"20260301-quick/{name}" for name in ("figures/a.png", "figures/b.png", "run.json", "trials.jsonl")]


def members(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as tar:
        files = {info.name: tar.extractfile(info) for info in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.mark.parametrize("name", ["run.zip", "run.tar.gz"])
def test_an_archive_holds_every_file_in_order(folder: Path, tmp_path: Path, name: str) -> None:
    packed = pack(folder, tmp_path / name)
    found = members(tmp_path / name)
    assert list(found) == NAMES
    assert found["20260301-quick/figures/b.png"] == bytes(range(256))
    assert packed.files == ("figures/a.png", "figures/b.png", "run.json", "trials.jsonl")
    assert packed.left_out == ()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_packing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path, suffix: str) -> None:
    pack(folder, tmp_path / f"one{suffix}")
    for path in folder.rglob("*.json"):
        path.touch()
    time.sleep(1.1)  # a gzip header counts whole seconds
    pack(folder, tmp_path / f"two{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["run.zip", "run.tar.gz"])
def test_links_are_left_out_and_named(folder: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    (folder / "key.txt").symlink_to(secret / "key.txt")
    (folder / "linked").symlink_to(secret)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    packed = pack(folder, tmp_path / name)
    assert list(members(tmp_path / name)) == NAMES
    assert packed.left_out == ("dangling", "key.txt", "linked")


def test_an_archive_may_lie_in_the_run_and_does_not_hold_itself(folder: Path) -> None:
    pack(folder, folder / "run.zip")
    assert list(members(folder / "run.zip")) == NAMES


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zip"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        pack(folder, out)
    assert out.read_bytes() == b"mine"
    link = tmp_path / "link.zip"
    link.symlink_to(tmp_path / "target.zip")
    with pytest.raises(InputError, match="already exists"):
        pack(folder, link)
    assert not (tmp_path / "target.zip").exists()


@pytest.mark.parametrize("name", ["run.rar", "run", "run.tar", ".zip", "missing/run.zip"])
def test_a_bad_name_is_refused_in_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        pack(folder, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20260301-quick"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"run\.json"):
            pack(folder, tmp_path / "run.zip")


def test_a_crash_leaves_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "run.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20260301-quick"]
