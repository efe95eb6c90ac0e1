"""The process that reads the counters, for real: what it answers, and that its failures cost nothing but telemetry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlmbench.profiles.gpus import NoGpuError
from dlmbench.profiles.hardware import TELEMETRY
from dlmbench.profiles.telemetry_client import TelemetryProcess
from dlmbench.profiles.telemetry_process import own_processes

Start = Callable[..., TelemetryProcess]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """`start("steady")` starts the process with that function of `fake_nvml` for a binding."""
    started: list[TelemetryProcess] = []
    folder = Path(__file__).parent

    def make(binding: str, **fields: Any) -> TelemetryProcess:
        made = TelemetryProcess.start(uuid=None, nvml=f"fake_nvml:{binding}", **fields)
        started.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        yield make
    for made in started:
        made.close()


@pytest.fixture(scope="module")
def steady(start: Start) -> TelemetryProcess:
    """One that stays alive for all tests that only ask."""
    return start("steady")


def asked(process: TelemetryProcess) -> str:
    """Ask for everything, which must take next to no time; why there is no power."""
    begin = time.monotonic()
    with process.closely():
        found = process.window(begin_s=begin - 1, end_s=begin, generations=1, output_tokens=1)
    assert (found.values, set(found.missing)) == ({}, set(TELEMETRY))
    assert process.stretch(begin_s=begin - 1, end_s=begin).series == {}
    assert process.reasons(begin_s=begin - 1, end_s=begin) == (None, None)
    process.watch_idle(seconds=60.0)
    assert time.monotonic() - begin < 20
    return found.missing["power_w"]


def test_a_window_on_the_clock_that_processes_share(steady: TelemetryProcess) -> None:
    with steady.closely():
        begin = time.monotonic()
        time.sleep(1.5)
        end = time.monotonic()
        found = steady.window(begin_s=begin, end_s=end, generations=5, output_tokens=100)
    assert found.values["power_w"] == pytest.approx(300, rel=0.05)
    assert found.values["energy_j"] == pytest.approx(60 * (end - begin), rel=0.05)
    assert found.values["sm_active"] == pytest.approx(0.75, rel=0.01)
    assert (found.clock_reasons, found.foreign) == ((), 0)  # the fake shows this process on the GPU: it is ours
    assert 5 < len(found.series["at_s"]) < 40
    assert found.missing.keys() == {"power_idle_w"}


def test_idle_power_is_remembered(steady: TelemetryProcess) -> None:
    steady.watch_idle(seconds=1.4)
    now = time.monotonic()
    found = steady.window(begin_s=now - 1.3, end_s=now, generations=1, output_tokens=1)
    assert found.values["power_idle_w"] == pytest.approx(300, rel=0.05)


def test_what_happened_before_it_started_is_unknown(steady: TelemetryProcess) -> None:
    assert steady.reasons(begin_s=0.0, end_s=1.0) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_blocks_between_readings(steady: TelemetryProcess) -> None:
    process = psutil.Process(steady.pid)
    before, begin = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(1.0)
    # A spinning loop would use all of it.
    assert sum(process.cpu_times()[:2]) - before < 0.2 * (time.monotonic() - begin)


def test_what_a_binding_prints_does_not_reach_the_replies_and_an_ended_one_says_so(start: Start) -> None:
    process = start("loud")
    now = time.monotonic()
    assert process.stretch(begin_s=now - 1, end_s=now).source == "NVML, driver 999.1"
    process.close()
    assert asked(process) == "the process that reads NVML was ended"
    assert not psutil.pid_exists(process.pid)


def test_a_killed_one_costs_telemetry_and_nothing_else(start: Start) -> None:
    process = start("steady")
    os.kill(process.pid, signal.SIGKILL)
    assert asked(process) == "the process that reads NVML died (signal 9)"


def test_one_that_dies_says_its_last_words(start: Start) -> None:
    process = start("dying")
    time.sleep(0.5)
    assert asked(process) == "the process that reads NVML died (exit code 5): Xid 79"


def test_one_that_hangs_is_waited_for_once_and_briefly(start: Start) -> None:
    process = start("hanging", answer_s=0.5)
    time.sleep(0.5)
    assert asked(process) == "the process that reads NVML did not answer within 0.5 s"
    begin = time.monotonic()
    process.close()
    process.close()
    assert time.monotonic() - begin < 10
    assert not psutil.pid_exists(process.pid)


def test_one_that_does_not_start_in_time_is_none(start: Start) -> None:
    with pytest.raises(NoGpuError, match=r"did not answer within 0\.5 s"):
        start("stuck", start_s=0.5)


def test_without_a_binding_there_is_a_reason(start: Start) -> None:
    with pytest.raises(NoGpuError, match="the NVML binding is not installed"):
        start("absent")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_dies_with_its_parent(start: Start) -> None:
    code = """
import time
from dlmbench.profiles.telemetry_client import TelemetryProcess
print(TelemetryProcess.start(uuid=None, nvml="fake_nvml:steady").pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_children_and_their_children_are_our_own_and_stay_so() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    own = own_processes(os.getpid())
    deadline = time.monotonic() + 20
    while not (grand := psutil.Process(child.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert own(os.getpid())
        assert own(child.pid)
        assert own(grand[0].pid)
        assert not own(os.getppid())
        assert not own(1)
    finally:
        child.communicate(b"\n")
    assert own(grand[0].pid), "it is gone by now, and was ours"
    assert not own(2**22 + 1), "there is no such process"
