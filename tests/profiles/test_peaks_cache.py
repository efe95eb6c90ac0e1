"""Remembered peaks: kept by identity, trusted only while they are whole, ours, of this version and lately measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlmbench.profiles.hardware import DevicePeaks, Peak
from dlmbench.profiles.known_peaks import KnownPeaks, look_up
from dlmbench.profiles.peaks_cache import PeaksCache, Remembered, age_s, cache_folder

GPU = {"device": "cuda", "name": "Example GPU", "uuid": "GPU-12345678", "driver": "1", "torch": "2"}
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def peaks(rate: float = 1e12, dtypes: Sequence[str] = ("float32",), ago_s: float = 0.0, **identity: str) -> DevicePeaks:
    return DevicePeaks(
        device="cuda",
        name="Example GPU",
        identity={**GPU, **identity},
        threads=1,
        measured=(datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat(timespec="seconds"),
        matmul={dtype: Peak(burst=rate, sustained=rate, size=4096) for dtype in dtypes},
        read=Peak(burst=1e11, sustained=1e11, size=1 << 30),
    )


class Bench:
    """Measures by returning the next of `rates`; `asked` are the dtypes of each time."""

    def __init__(self, *rates: float) -> None:
        self.rates = list(rates)
        self.asked: list[list[str]] = []

    def __call__(self, dtypes: Sequence[str], identity: dict[str, str]) -> DevicePeaks:
        self.asked.append(list(dtypes))
        return peaks(self.rates.pop(0), dtypes).model_copy(update={"identity": identity})


def known(
    folder: Path, bench: Bench, dtypes: Sequence[str] = ("float32",), max_age_s: float = 3600.0, **identity: str
) -> KnownPeaks:
    return look_up({**GPU, **identity}, dtypes, PeaksCache(folder), bench, max_age_s=max_age_s)


# Where the files are


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HOME": "/h"}, "/h/.cache/dlmbench/peaks"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/dlmbench/peaks"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/dlmbench/peaks"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "DLMBENCH_CACHE": "/d"}, "/d/peaks"),
        ({"HOME": "/h", "DLMBENCH_CACHE": ""}, "/h/.cache/dlmbench/peaks"),
        ({}, None),
    ],
)
def test_the_folder_follows_the_environment(variables: dict[str, str], folder: str | None) -> None:
    assert cache_folder(variables) == (None if folder is None else Path(folder))


def test_every_part_of_the_identity_names_another_file(tmp_path: Path) -> None:
    cache = PeaksCache(tmp_path)
    paths = {cache.path(GPU)} | {cache.path({**GPU, name: "other"}) for name in GPU if name != "device"}
    assert len(paths) == len(GPU)
    assert cache.path(dict(reversed(GPU.items()))) == cache.path(GPU)


# What is remembered


def test_what_was_measured_lately_is_not_measured_again(tmp_path: Path) -> None:
    bench = Bench(1e12)
    first, second = known(tmp_path, bench), known(tmp_path, bench)
    assert (first.remembered, second.remembered) == (False, True)
    assert second.peaks == first.peaks
    assert second.before is None
    assert bench.asked == [["float32"]]
    assert first.notes == second.notes == ()


@pytest.mark.parametrize("part", ["uuid", "driver", "torch", "threads"])
def test_another_identity_is_measured_and_the_first_one_kept(tmp_path: Path, part: str) -> None:
    bench = Bench(1e12, 2e12)
    known(tmp_path, bench)
    other = known(tmp_path, bench, **{part: "other"})
    assert (other.remembered, other.before, other.peaks.matmul["float32"].sustained) == (False, None, 2e12)
    assert known(tmp_path, bench).peaks.matmul["float32"].sustained == 1e12


def test_the_last_time_is_kept_beside_this_one(tmp_path: Path) -> None:
    bench = Bench(1e12, 2e12, 3e12)
    known(tmp_path, bench, max_age_s=0)
    second, third = known(tmp_path, bench, max_age_s=0), known(tmp_path, bench, max_age_s=0)
    assert second.before is not None
    assert third.before is not None
    assert second.before.matmul["float32"].sustained == 1e12
    assert third.before.matmul["float32"].sustained == 2e12
    assert known(tmp_path, bench).before == third.before, "one that was remembered has the same neighbour"


def test_old_peaks_are_measured_again(tmp_path: Path) -> None:
    PeaksCache(tmp_path).write(peaks(1e12, ago_s=3700), None)
    found = known(tmp_path, Bench(2e12), max_age_s=3600)
    assert (found.remembered, found.peaks.matmul["float32"].sustained) == (False, 2e12)
    PeaksCache(tmp_path).write(peaks(1e12, ago_s=3500), None)
    assert known(tmp_path, Bench(), max_age_s=3600).remembered


def test_another_dtype_is_measured_with_those_that_were_known(tmp_path: Path) -> None:
    bench = Bench(1e12, 2e12)
    known(tmp_path, bench, ("float32",))
    known(tmp_path, bench, ("bfloat16",))
    assert bench.asked == [["float32"], ["bfloat16", "float32"]]
    assert known(tmp_path, bench, ("float32",)).remembered
    assert known(tmp_path, bench, ("bfloat16", "float32")).remembered
    bench.rates = [3e12]
    known(tmp_path, bench, ("float16",), max_age_s=0)
    assert bench.asked[-1] == ["float16"], "who wants a measurement now gets no other"


def test_a_dtype_that_the_device_refused_is_not_tried_again(tmp_path: Path) -> None:
    refused = peaks().model_copy(update={"missing": {"float16": "no kernel"}})
    PeaksCache(tmp_path).write(refused, None)
    assert known(tmp_path, Bench(), ("float16",)).remembered


def test_a_measurement_of_nothing_is_not_kept(tmp_path: Path) -> None:
    def nothing(dtypes: Sequence[str], identity: dict[str, str]) -> DevicePeaks:
        return peaks().model_copy(update={"matmul": {}, "read": None, "missing": {"float32": "no memory"}})

    assert look_up(GPU, ("float32",), PeaksCache(tmp_path), nothing, max_age_s=0).peaks.missing["float32"]
    assert list(tmp_path.iterdir()) == []


def test_a_disturbed_measurement_is_used_and_not_kept(tmp_path: Path) -> None:
    def disturbed(dtypes: Sequence[str], identity: dict[str, str]) -> DevicePeaks:
        return peaks(2e12).model_copy(update={"waited_cores": 0.67})

    known(tmp_path, Bench(1e12))
    found = look_up(GPU, ("float32",), PeaksCache(tmp_path), disturbed, max_age_s=0)
    assert found.peaks.matmul["float32"].sustained == 2e12
    assert found.notes == ("not kept for later: others used 0.7 processors that the peaks needed",)
    assert known(tmp_path, Bench()).peaks.matmul["float32"].sustained == 1e12


# What is not trusted: one sentence, and a measurement


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: len(text) // 2], "not peaks of this version of dlmbench"),
        (lambda text: "", "not peaks of this version"),
        (lambda text: "[1, 2]", "not peaks of this version"),
        (lambda text: "\x00\xff", "not peaks of this version"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "not peaks of this version"),
        (lambda text: text.replace('"threads": 1', '"threads": 1, "from_the_future": 1'), "not peaks of this version"),
        (lambda text: text.replace("1000000000000.0", "-1.0"), "not peaks of this version"),
        (lambda text: text.replace("GPU-12345678", "GPU-87654321"), "peaks of another device"),
        (lambda text: _dated(text, "2999-01-01T00:00:00+00:00"), "no time in the past"),
        (lambda text: _dated(text, "yesterday"), "no time in the past"),
        (lambda text: _dated(text, "2026-01-01T00:00:00"), "no time in the past"),
    ],
)
def test_a_file_that_cannot_be_trusted_costs_one_sentence(tmp_path: Path, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    known(tmp_path, Bench(1e12))
    (path,) = tmp_path.iterdir()
    path.write_text(spoil(path.read_text()), encoding="latin-1")
    found = known(tmp_path, Bench(2e12))
    assert (found.remembered, found.peaks.matmul["float32"].sustained) == (False, 2e12)
    (note,) = found.notes
    assert words in note
    assert known(tmp_path, Bench()).notes == (), "and is whole again afterwards"


def _dated(text: str, date: str) -> str:
    document = json.loads(text)
    document["last"]["measured"] = date
    return json.dumps(document)


def test_a_folder_in_the_files_place_is_no_reason_to_stop(tmp_path: Path) -> None:
    path = PeaksCache(tmp_path).path(GPU)
    assert path is not None
    path.mkdir()
    found = known(tmp_path, Bench(1e12))
    assert found.peaks.matmul
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "Is a directory; the device is measured anew",
        "cannot be written (Is a directory); peaks are not kept for later",
    ]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = known(tmp_path / "file" / "peaks", Bench(1e12))
    assert found.peaks.matmul
    assert len([note for note in found.notes if "not kept for later" in note]) == 1
    assert look_up(GPU, ("float32",), PeaksCache(None), Bench(1e12), max_age_s=0).notes == (
        "peaks are not kept: no home folder for a cache; set DLMBENCH_CACHE",
    )


def test_age() -> None:
    dated = peaks().model_copy(update={"measured": "2026-03-01T11:00:00+00:00"})
    assert age_s(dated, NOW) == 3600
    assert age_s(dated.model_copy(update={"measured": "2026-03-01T12:30:00+01:00"}), NOW) == 1800
    assert age_s(dated.model_copy(update={"measured": "2026-03-01T12:00:01+00:00"}), NOW) is None


# Several at once


def test_many_writers_and_readers_at_once_never_see_half_a_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from dlmbench.profiles.peaks_cache import PeaksCache, Remembered\n"
        "cache = PeaksCache(Path(sys.argv[1]))\n"
        "own = Remembered.model_validate_json(sys.stdin.read()).last\n"
        "for _ in range(60):\n"
        "    cache.write(own, own)\n"
        "    found = cache.read(own.identity)\n"
        "    assert found is not None and found.last == found.before, found\n"
        "assert not cache.notes, cache.notes\n"
    )
    started = []
    for rate in (1e12, 2e12, 3e12):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(Remembered(last=peaks(rate)).model_dump_json())
        process.stdin.close()
        started.append(process)
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file stays"


def test_everything_that_can_be_read_is_listed(tmp_path: Path) -> None:
    cache = PeaksCache(tmp_path)
    assert PeaksCache(None).all() == PeaksCache(tmp_path / "nowhere").all() == []
    for rate, driver in ((1e12, "1"), (2e12, "2")):
        cache.write(peaks(rate, driver=driver), None)
    (tmp_path / "cuda-broken.json").write_text("{")
    assert sorted(kept.last.identity["driver"] for kept in cache.all()) == ["1", "2"]
