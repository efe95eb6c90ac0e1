"""The processors that workers share: which ones, in turn, and that they stay on them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlmbench.profiles.host import core_names, usable_cpus
from dlmbench.profiles.pinning import fastest_cpus, pin, shared_cpus

# Four processors on two cores, as Linux numbers them with hardware threads.
SIBLINGS = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}


def chosen(threads: int, turn: int, count: int = 4, **variables: str) -> tuple[int, ...] | None:
    cores = {cpu: SIBLINGS.get(cpu) for cpu in range(count)}
    return shared_cpus(threads, turn, usable=range(count), cores=cores, variables=variables)


def test_one_thread_takes_every_processor_in_turn() -> None:
    assert [chosen(1, turn) for turn in range(5)] == [(0,), (1,), (2,), (3,), (0,)]


def test_two_threads_get_a_core_each() -> None:
    assert [chosen(2, turn) for turn in range(3)] == [(0, 1), (2, 3), (0, 1)]


def test_cores_without_a_name_count_as_cores() -> None:
    assert shared_cpus(2, 1, usable=(4, 5, 6), cores={}, variables={}) == (4, 6)


def test_the_fastest_kind_of_core_is_told_from_the_others(tmp_path: Path) -> None:
    assert fastest_cpus([0, 1, 2], tmp_path) == [0, 1, 2]
    folder = tmp_path / "sys/devices/system/cpu"
    for cpu, capacity in enumerate((446, 446, 1024, 1024)):
        (folder / f"cpu{cpu}").mkdir(parents=True)
        (folder / f"cpu{cpu}/cpu_capacity").write_text(f"{capacity}\n")
    assert fastest_cpus([0, 1, 2, 3], tmp_path) == [2, 3]
    assert fastest_cpus([0, 1], tmp_path) == [0, 1]
    (tmp_path / "sys/devices/cpu_core").mkdir()
    (tmp_path / "sys/devices/cpu_core/cpus").write_text("0-1\n")
    assert fastest_cpus([0, 1, 2, 3], tmp_path) == [0, 1]


@pytest.mark.parametrize("threads", [4, 5])
def test_without_a_processor_to_spare_nothing_is_pinned(threads: int) -> None:
    assert chosen(threads, 0) is None


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"])
def test_threads_that_the_user_binds_are_left_alone(name: str) -> None:
    assert chosen(1, 0, **{name: "0"}) is None
    assert chosen(1, 0, **{name: ""}) == (0,)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a second thread, which starts a third one when its input closes."""
    code = (
        "import os, sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print(flush=True); sys.stdin.read()\n"
        "found = []\n"
        "t = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0))); t.start(); t.join()\n"
        "print(sorted(found[0]), flush=True); os._exit(0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_every_thread_stays_there_and_so_do_new_ones(child: subprocess.Popen[bytes]) -> None:
    cpu = max(usable_cpus() or {0})
    assert pin(child.pid, [cpu])
    threads = [int(name) for name in os.listdir(f"/proc/{child.pid}/task")]
    assert len(threads) == 2
    assert all(os.sched_getaffinity(thread) == {cpu} for thread in threads)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    assert child.stdout.readline().decode().strip() == str([cpu])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_a_process_that_is_gone_or_a_processor_that_is_not_there_is_no_error(child: subprocess.Popen[bytes]) -> None:
    assert not pin(child.pid, [1023])
    child.kill()
    child.wait()
    time.sleep(0.05)
    assert not pin(child.pid, [0])


def test_cores_of_this_machine_have_names_or_none() -> None:
    cpus = usable_cpus() or {0}
    assert set(core_names(cpus)) == set(cpus)
