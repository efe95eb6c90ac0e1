"""RAPL on a made-up tree: what is counted, wraps, and why a machine has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlmbench.profiles.rapl import Rapl, rapl_telemetry


def zone(root: Path, folder: str, name: str, energy: int, most: int = 10**9) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    return path / "energy_uj"


def test_packages_and_dram_are_counted_and_nothing_twice(tmp_path: Path) -> None:
    counters = [
        zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        zone(tmp_path, "intel-rapl:0:0", "dram", 500_000),
        zone(tmp_path, "intel-rapl:0:1", "core", 700_000),
        zone(tmp_path, "intel-rapl:1", "psys", 9_000_000),
    ]
    rapl = Rapl.open(tmp_path)
    assert isinstance(rapl, Rapl)
    before = rapl.read()
    for counter in counters:
        counter.write_text(str(int(counter.read_text()) + 3_000_000))
    assert rapl.joules(before, rapl.read()) == pytest.approx(6.0)  # package and DRAM, 3 J each


def test_a_wrapped_counter_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=10_000_000)
    rapl = Rapl.open(tmp_path)
    assert isinstance(rapl, Rapl)
    before = rapl.read()
    counter.write_text("500000")
    assert rapl.joules(before, rapl.read()) == pytest.approx(1.5)


def test_a_counter_that_goes_away_is_no_energy(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    rapl = Rapl.open(tmp_path)
    assert isinstance(rapl, Rapl)
    before = rapl.read()
    counter.unlink()
    assert rapl.joules(before, rapl.read()) is None


def test_none_and_torn_files_are_said(tmp_path: Path) -> None:
    assert "no energy counters" in str(Rapl.open(tmp_path / "nowhere"))
    zone(tmp_path, "intel-rapl:0", "package-0", 1).write_text("?")
    assert "no energy counters" in str(Rapl.open(tmp_path))


def test_a_refused_counter_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, *arguments: str) -> str:
        if path == counter:
            raise PermissionError
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert str(Rapl.open(tmp_path)).endswith("chmod a+r /sys/class/powercap/*/energy_uj")


def test_energy_of_a_window() -> None:
    found = rapl_telemetry(30.0, 2.0, generations=10, output_tokens=160, idle_power_w=9.0)
    assert found.values == {"power_w": 15.0, "energy_j": 3.0, "energy_per_token_j": 30 / 160, "power_idle_w": 9.0}
    assert "CPU" in found.missing["sm_active"]
    lost = rapl_telemetry(None, 2.0, generations=10, output_tokens=160, idle_power_w=None)
    assert lost.values == {}
    assert {"power_w", "energy_j", "energy_per_token_j", "power_idle_w"} <= set(lost.missing)
