"""Who else used the processors: the arithmetic on made-up counters, and one look at the real ones."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from dlmbench.profiles.disturbance import CpuWindow, Disturbance, OwnUse, kept_waiting_s, own_use

HAS_PROC = Path("/proc/stat").exists()


def write_stat(root: Path, *cpus: tuple[int, ...]) -> None:
    """Rows of user nice system idle iowait irq softirq steal; as the kernel does, a sum first and more lines after."""
    (root / "proc").mkdir(exist_ok=True)
    total = tuple(sum(column) for column in zip(*cpus, strict=True))
    lines = [f"cpu  {' '.join(map(str, total))} 0 0"]
    lines += [f"cpu{i} {' '.join(map(str, row))} 0 0" for i, row in enumerate(cpus)]
    (root / "proc/stat").write_text("\n".join([*lines, "intr 12345 0 0", "ctxt 678"]) + "\n")


def write_process(root: Path, pid: int, user: int, system: int) -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    # The name may contain what the other fields are separated by.
    (folder / "stat").write_text(f"{pid} (a b) c) R 1 1 1 0 -1 4194304 9 0 0 0 {user} {system} 0 0 20 0 1 0 99\n")


class Machine:
    """Two processors, a clock, and this process's own use, all set by hand; 100 ticks a second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.at_s = 100.0
        self.own = OwnUse(5.0, 10)
        write_stat(root, (1000, 0, 100, 5000, 50, 0, 0, 0), (2000, 0, 200, 5000, 50, 0, 0, 0))

    def window(self, pids: tuple[int, ...] = (), cpus: Collection[int] | None = (0, 1)) -> CpuWindow:
        return CpuWindow(
            pids,
            cpus=cpus,
            root=self.root,
            clock=lambda: self.at_s,
            own=lambda: self.own,
            ticks_per_s=100,
        )


def test_foreign_is_what_is_busy_less_what_is_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    window = machine.window()
    window.start()
    machine.at_s += 2.0
    machine.own = OwnUse(6.5, 14)
    # cpu0: user +100, system +20, irq +5, softirq +5 = 130 ticks; idle and iowait do not count; steal +10
    # cpu1: user +60, nice +10 = 70 ticks; steal +30
    write_stat(tmp_path, (1100, 0, 120, 5050, 70, 5, 5, 10), (2060, 10, 200, 5100, 50, 0, 0, 30))
    found = window.stop()
    # busy 200 ticks = 2.0 s, own 1.5 s, foreign 0.5 s; over 2 s: 0.75 and 0.25 cores; steal 0.4 s / 2 s = 0.2
    assert found.seconds == pytest.approx(2.0)
    assert found.own_cores == pytest.approx(0.75)
    assert found.foreign_cores == pytest.approx(0.25)
    assert found.steal_cores == pytest.approx(0.2)
    assert (found.switches, found.cores) == (4, 2)


def test_named_processes_are_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    write_process(tmp_path, 41, 300, 50)
    write_process(tmp_path, 42, 10, 10)
    window = machine.window(pids=(41, 42, 43, 41))  # 43 does not exist, 41 is named twice
    window.start()
    machine.at_s += 1.0
    write_stat(tmp_path, (1080, 0, 100, 5000, 50, 0, 0, 0), (2040, 0, 200, 5000, 50, 0, 0, 0))
    write_process(tmp_path, 41, 340, 60)
    (tmp_path / "proc/42/stat").unlink()  # ended inside the window: no longer readable
    found = window.stop()
    # busy 120 ticks; 41 used 40 + 10 = 50 of them; this process none: 0.5 own and 0.7 foreign
    assert found.own_cores == pytest.approx(0.5)
    assert found.foreign_cores == pytest.approx(0.7)


def test_only_the_processors_that_this_process_may_use_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    window = machine.window(cpus=(1,))
    window.start()
    machine.at_s += 1.0
    write_stat(tmp_path, (1099, 0, 100, 5000, 50, 0, 0, 90), (2030, 0, 200, 5000, 50, 0, 0, 5))
    found = window.stop()
    # cpu1 alone: 30 ticks busy, 5 stolen
    assert found.foreign_cores == pytest.approx(0.3)
    assert found.steal_cores == pytest.approx(0.05)
    assert found.cores == 1


def test_rounding_of_ticks_is_not_time_given_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    window = machine.window()
    window.start()
    machine.at_s += 1.0
    machine.own = OwnUse(6.0, 10)  # one second, exactly
    write_stat(tmp_path, (1099, 0, 100, 5000, 50, 0, 0, 0), (2000, 0, 200, 5000, 50, 0, 0, 0))  # 99 ticks seen
    assert window.stop().foreign_cores == 0.0


@pytest.mark.parametrize(("seconds", "resolved"), [(0.19, False), (0.21, True)])
def test_a_short_window_is_not_resolved(tmp_path: Path, seconds: float, resolved: bool) -> None:
    machine = Machine(tmp_path)
    window = machine.window()
    window.start()
    machine.at_s += seconds
    machine.own = OwnUse(5.1, 12)
    found = window.stop()
    assert (found.own_cores is not None, found.foreign_cores is not None, found.steal_cores is not None) == (
        resolved,
        resolved,
        resolved,
    )
    assert found.switches == 2  # a count, exact however short
    assert math.isnan(found.excess(1, 2)) is not resolved


def test_without_proc_nothing_is_known_and_nothing_fails(tmp_path: Path) -> None:
    window = CpuWindow((1,), root=tmp_path, clock=iter((0.0, 5.0)).__next__, own=lambda: OwnUse(1.0, None))
    window.start()
    assert window.stop() == Disturbance(5.0, None, None, None, None, None)


def test_excess_is_the_demand_beyond_the_free_processors() -> None:
    found = Disturbance(1.0, own_cores=2.0, foreign_cores=1.4, steal_cores=0.2, switches=0, cores=4)
    assert found.excess(threads=3, cores=4) == pytest.approx(0.6)  # 1.4 + 0.2 - (4 - 3)
    assert found.excess(threads=2, cores=4) == 0.0  # two are free: they fit
    assert found.excess(threads=4, cores=4) == pytest.approx(1.6)
    assert found.excess(threads=6, cores=4) == pytest.approx(1.6)  # too many threads leave none free, not minus two
    assert found.excess(threads=3) == pytest.approx(0.6)  # of the processors watched
    assert found.excess(threads=3, cores=3) == pytest.approx(1.6)  # a quota left three


def test_an_unresolved_window_never_exceeds_a_limit() -> None:
    unknown = Disturbance(0.1, None, None, None, 3, 4).excess(1)
    assert math.isnan(unknown)
    assert not unknown > 0.0


def test_a_window_is_used_in_order() -> None:
    window = CpuWindow()
    with pytest.raises(RuntimeError, match="start"):
        window.stop()
    with pytest.raises(RuntimeError, match="no CpuWindow"):
        _ = window.disturbance
    with window:
        pass
    assert window.disturbance.seconds >= 0.0
    with pytest.raises(RuntimeError, match="start"):
        window.stop()  # already stopped


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_this_process_is_own_with_its_threads() -> None:
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    thread = threading.Thread(target=spin)
    before = own_use()
    window = CpuWindow()
    window.start()
    thread.start()
    time.sleep(0.3)
    done.set()
    thread.join()
    found = window.stop()
    used = own_use().cpu_s - before.cpu_s
    assert found.own_cores is not None
    # the work of the other thread is in it: within what was read around it, which is more than this thread's
    assert 0.0 < found.own_cores * found.seconds <= used
    assert found.own_cores * found.seconds > 0.5 * used
    assert found.cores == len(os.sched_getaffinity(0))


# Kept waiting ------------------------------------------------------------------------------------------------------


def test_waiting_is_summed_over_threads_in_nanoseconds(tmp_path: Path) -> None:
    for thread, text in (("1", "500 2000000000 7"), ("2", "900 500000000 3")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    assert kept_waiting_s(tmp_path) == pytest.approx(2.5)


@pytest.mark.parametrize("text", [None, "", "1", "1 x 2"])
def test_waiting_that_the_system_does_not_tell_is_unknown(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "1").mkdir()
    if text is not None:
        (tmp_path / "1" / "schedstat").write_text(text)
    assert math.isnan(kept_waiting_s(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_sleeping_is_not_waiting_for_a_processor() -> None:
    before = kept_waiting_s()
    time.sleep(0.1)
    assert kept_waiting_s() - before < 0.05
