"""The parent's end of a worker, with real processes: replies, hangs, deaths, idleness, and no orphans."""

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

from dlmbench.bench.handle import Launch, WorkerFailedError, WorkerHandle, worker_variables
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import Cell, Sample, WorkerInfo

SHOUTING = """
import os, sys, torch
class Shouting:
    side = "ar"
    def __init__(self, context): print("made"); os.write(1, b'{"ok": true}\\n')
    def prepare(self, shape, settings): print('{"ok": false}', flush=True)
    def generate(self, request, observer):
        sys.__stdout__.write("noise\\n"); sys.__stdout__.flush()
        out = torch.zeros(request.prompt_ids.shape[0], request.length, dtype=torch.int64)
        with observer.forward("target", "decode", 1, 1, 1, 1, "causal"):
            os.system("echo from a child")
        observer.write(None, out, 0)
        return out
"""


def loading(**changes: Any) -> dict[str, Any]:
    fields = {
        "config": load_pair("small").ar.backbone.model_dump(), "weights": "random", "seed": 0,
        "dtype": "float32", "device": "cpu", "threads": 1, "prompts": None, "tokenizer": "source",
    }  # fmt: skip
    return fields | changes


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process ends (or is a zombie) within the time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHandle]:
    """A real worker with `small` loaded, shared by the tests that leave it alive."""
    handle = WorkerHandle(tmp_path_factory.mktemp("logs") / "worker.log", 1, "cpu")
    handle.info = WorkerInfo.model_validate(handle.ask("load", 120, **loading())["info"])  # type: ignore[attr-defined]
    yield handle
    handle.end()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], WorkerHandle]:
    """`stand_in(code)` starts a handle whose worker is `python -c code`."""
    started: list[WorkerHandle] = []
    real = subprocess.Popen

    def start(code: str) -> WorkerHandle:
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, **fields: real([sys.executable, "-S", "-c", code], **fields)
        )
        handle = WorkerHandle(tmp_path / f"{len(started)}.log", 1, "cpu")
        monkeypatch.setattr(subprocess, "Popen", real)
        started.append(handle)
        return handle

    yield start
    for handle in started:
        handle.kill()
        handle.end()


# A real worker


@pytest.mark.slow
def test_a_cell_is_opened_warmed_up_sampled_and_closed(worker: Any) -> None:
    cell = Cell(pair="small", side="ar", generator="ar", length=4)
    assert worker.info.pid == worker.pid
    assert worker.ask("open", 60, id="c0", cell=cell.model_dump())["prepare_s"] > 0
    warm = worker.ask("warmup", 60, id="c0", limit_s=0.2, hard_limit_s=10.0)["warmup"]
    assert warm["samples"] >= 2
    fields = {"id": "c0", "order": 7, "round": 3, "prompt": 5, "seed": 11, "started_s": 1.5}
    sample = Sample.model_validate(worker.ask("sample", 60, **fields)["sample"])
    assert (sample.order, sample.round, sample.prompt, sample.seed, sample.started_s) == (7, 3, 5, 11, 1.5)
    assert (sample.output_tokens, sample.canvas_tokens, sample.nfe) == (4, 4, 4)
    assert sample.prefill_s + sample.forward_s + sample.sampling_s + sample.idle_s == pytest.approx(sample.latency_s)
    # Prefill of 32 positions, then three decode steps of one.
    assert sample.forward_tokens == 32 + 3
    closed = worker.ask("close", 60, id="c0", flop_s=1e12, byte_s=1e11, counted=[7])
    assert closed["counters"]["nfe"] == 4
    assert len(closed["timeline"]["commits"]) == 4


@pytest.mark.slow
def test_a_refused_request_leaves_the_worker_alive(worker: Any) -> None:
    for operation, fields, code in (
        ("dance", {}, "protocol"),
        ("close", {"id": "nosuch", "flop_s": 1.0, "byte_s": 1.0, "counted": []}, "crash"),
        ("open", {"id": "x", "cell": {"pair": "small"}}, "crash"),
    ):
        with pytest.raises(WorkerFailedError) as caught:
            worker.ask(operation, 60, **fields)
        assert (caught.value.code, caught.value.fatal) == (code, False)
    worker.ask("release", 60)


@pytest.mark.slow
def test_what_a_generator_prints_does_not_reach_the_replies(worker: Any, tmp_path: Path) -> None:
    plug = tmp_path / "shouting.py"
    plug.write_text(SHOUTING)
    cell = Cell(pair="small", side="ar", generator=f"{plug}:Shouting", length=4)
    assert worker.ask("open", 60, id="loud", cell=cell.model_dump()).keys() == {"prepare_s"}
    fields = {"id": "loud", "order": 0, "round": 0, "prompt": 0, "seed": 0, "started_s": 0.0}
    assert worker.ask("sample", 60, **fields)["sample"]["nfe"] == 1
    worker.ask("release", 60)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_uses_no_processor(worker: Any) -> None:
    worker.ask("release", 60)
    process = psutil.Process(worker.pid)
    before = process.cpu_times()
    time.sleep(0.5)
    after = process.cpu_times()
    # Counted in ticks of 10 ms: a spinning thread would use fifty.
    assert (after.user + after.system) - (before.user + before.system) <= 0.02


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """One parent is killed while its worker sits idle after a reply, and has closed nothing."""
    code = f"""
import sys, time
from pathlib import Path
from dlmbench.bench.handle import WorkerHandle, WorkerFailedError
handle = WorkerHandle(Path({str(tmp_path / "w.log")!r}), 1, "cpu")
try:
    handle.ask("dance", 60)
except WorkerFailedError:
    print(handle.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid, within_s=2.0)


# The handle, with stand-ins that start in a moment


def test_a_hang_is_cut_off_at_the_limit_and_the_worker_is_killed(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in("import time; time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(WorkerFailedError) as caught:
        handle.ask("sample", 0.2)
    assert (caught.value.code, caught.value.fatal) == ("hang", True)
    assert time.monotonic() - begin < 10
    assert gone(handle.pid, 1.0)


def test_a_worker_that_takes_no_request_is_a_hang(
    stand_in: Callable[[str], WorkerHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of more than a pipe holds, and nobody who reads it."""
    monkeypatch.setattr("dlmbench.bench.handle._SEND_S", 0.2)
    handle = stand_in("import time; time.sleep(60)")
    with pytest.raises(WorkerFailedError, match="took no request within") as caught:
        handle.send("sample", text="x" * (1 << 22))
    assert (caught.value.code, caught.value.fatal) == ("hang", True)
    assert gone(handle.pid, 1.0)


def test_a_request_of_more_than_a_pipe_holds_arrives_whole(stand_in: Callable[[str], WorkerHandle]) -> None:
    code = "import json, sys; print(json.dumps({'ok': True, 'n': len(json.loads(sys.stdin.readline())['text'])}))"
    assert stand_in(code).ask("sample", 20, text="x" * (1 << 22)) == {"n": 1 << 22}


def test_half_a_reply_and_then_silence_is_a_hang(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in("import sys, time; sys.stdout.write('{\"ok\": tr'); sys.stdout.flush(); time.sleep(60)")
    with pytest.raises(WorkerFailedError, match="no answer within"):
        handle.ask("sample", 0.5)


def test_a_killed_worker_is_called_killed(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in("import time; time.sleep(60)")
    handle.send("sample")
    os.kill(handle.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailedError, match=r"killed \(signal 9\); out of memory is the usual reason") as caught:
        handle.receive(30)
    assert (caught.value.code, caught.value.fatal) == ("killed", True)


def test_a_request_to_a_dead_worker_says_how_it_died(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in("import sys; sys.stderr.write('Traceback:\\n  the last words\\n'); sys.exit(7)")
    assert gone(handle.pid)
    for _ in range(2):
        with pytest.raises(WorkerFailedError, match=r"exit code 7\): the last words") as caught:
            handle.ask("sample", 30)
        assert (caught.value.code, caught.value.fatal) == ("crash", True)


@pytest.mark.parametrize(
    "code",
    [
        "print('y', flush=True)",
        "print('[1]', flush=True)",
        "print('{}', flush=True)",
        "print('[' * 100000, flush=True)",
    ],
)
def test_what_is_no_reply_is_no_bug_of_ours(stand_in: Callable[[str], WorkerHandle], code: str) -> None:
    """`--base-cmd yes`."""
    handle = stand_in(f"{code}\nimport time; time.sleep(60)")
    with pytest.raises(WorkerFailedError, match="which is no reply; is it `python -m dlmbench") as caught:
        handle.receive(20)
    assert (caught.value.code, caught.value.fatal) == ("protocol", True)
    assert not handle.alive


def test_a_flood_without_an_end_is_cut_off(
    stand_in: Callable[[str], WorkerHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlmbench.profiles.child._LONGEST", 1 << 22)
    handle = stand_in("import os\nwhile True: os.write(1, b'x' * 65536)")
    with pytest.raises(WorkerFailedError, match="no reply"):
        handle.receive(60)
    assert not handle.alive


def test_a_worker_that_closes_its_output_and_lives_on_does_not_hold_us(
    stand_in: Callable[[str], WorkerHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = stand_in("import os, time; os.close(1); time.sleep(60)")
    with pytest.raises(WorkerFailedError, match="closed its output and lived on"):
        handle.receive(30)
    assert not handle.alive


def test_the_last_words_of_a_worker_that_floods_its_log_are_found(stand_in: Callable[[str], WorkerHandle]) -> None:
    code = (
        "import os, sys\nfor _ in range(64): os.write(2, b'x' * 65536)\nos.write(2, b'\\nlast words\\n'); sys.exit(3)"
    )
    with pytest.raises(WorkerFailedError, match=r"exit code 3\): last words"):
        stand_in(code).receive(30)


def test_a_signal_is_named(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(WorkerFailedError, match="signal 11"):
        handle.ask("sample", 30)


def test_replies_keep_their_order_and_may_come_in_pieces(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in(
        "import sys, time\n"
        'for part in (\'{"ok": true, "n"\', \': 1}\\n{"ok": true, "n": 2}\\n{"ok":\', \' true, "n": 3}\\n\'):\n'
        "    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.05)\n"
    )
    assert [handle.receive(30)["n"] for _ in range(3)] == [1, 2, 3]


def test_a_failed_request_leaves_its_traceback_in_the_log(stand_in: Callable[[str], WorkerHandle]) -> None:
    handle = stand_in(
        "import json; print(json.dumps({'ok': False, 'code': 'crash', 'message': 'no', 'detail': 'Traceback here'}))"
    )
    with pytest.raises(WorkerFailedError, match="no") as caught:
        handle.receive(30)
    assert not caught.value.fatal
    assert "Traceback here" in handle._log.read_text()


def test_text_that_is_no_unicode_still_makes_a_failure(stand_in: Callable[[str], WorkerHandle]) -> None:
    """What an exception says of a file whose name is not UTF-8: Python holds such bytes as lone surrogates."""
    handle = stand_in(
        "import json; print(json.dumps({'ok': False, 'code': 'crash', 'message': '\\udcff', 'detail': '\\udcff'}))"
    )
    with pytest.raises(WorkerFailedError) as caught:
        handle.receive(30)
    caught.value.message.encode()


def test_an_ended_worker_leaves_no_empty_log(stand_in: Callable[[str], WorkerHandle]) -> None:
    quiet, loud = stand_in("import sys; sys.stdin.read()"), stand_in("import sys; sys.stderr.write('x')")
    for handle in (quiet, loud):
        handle.end()
        assert gone(handle.pid, 1.0)
    assert not quiet._log.exists()
    assert loud._log.read_text() == "x"


def test_a_worker_is_launched_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "1")
    monkeypatch.setenv("KEPT", "1")
    code = (
        "import json, os\n"
        'names = ("TAKEN", "KEPT", "GIVEN", "DLMBENCH_PARENT", "PYTHONUNBUFFERED")\n'
        "print(json.dumps({'ok': True, 'folder': os.getcwd(), **{n: os.environ.get(n) for n in names}}), flush=True)\n"
        "input()"
    )
    command = (sys.executable, "-S", "-c", code)
    handle = WorkerHandle(tmp_path / "w.log", 1, "cpu", Launch(command, tmp_path, {"TAKEN": None, "GIVEN": "a b"}))
    assert handle.receive(30) == {
        "folder": str(tmp_path.resolve()), "TAKEN": None, "KEPT": "1", "GIVEN": "a b",
        "DLMBENCH_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    handle.end()


def test_a_command_that_cannot_be_started_is_bad_input(tmp_path: Path) -> None:
    for launch in (Launch(("no-such-program-xyz",)), Launch(folder=tmp_path / "missing")):
        with pytest.raises(WorkerFailedError, match=r"cannot be started \(No such file or directory\)") as caught:
            WorkerHandle(tmp_path / "w.log", 1, "cpu", launch)
        assert (caught.value.code, caught.value.fatal) == ("input", True)


def test_what_a_user_set_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_variables(3, "cpu")["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in worker_variables(3, "cuda")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in worker_variables(3, "cpu")
