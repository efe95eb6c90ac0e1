"""`dlmbench load` against servers of ours whose every time is known, and against broken ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench import cli
from dlmbench.bench.serve.scripted import Schedule, Scripted
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.profiles.serving.store import StoredLoad, is_load, read_load

SECRET = "sk-secret-0123456789"


def load(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code and what was printed."""
    argv, sys.argv = sys.argv, ["dlmbench", "load", *map(str, arguments)]
    code: Any = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    return code, out, err


def measured(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> StoredLoad:
    code, _, err = load(capsys, *arguments, "--out", folder)
    assert code == 0, err
    return read_load(folder)


def value(stored: StoredLoad, name: str, level: int = 0) -> float:
    found = stored.run.levels[level].metrics[name].value
    assert found is not None, stored.run.levels[level].metrics[name].why
    return found


# The schedule, and what its truth is. How late a machine is cannot be asserted; that nothing is early, and who is
# counted as what, can.
@pytest.mark.parametrize(
    ("schedule", "flags", "blocks", "size"),
    [
        ("first=0.05,every=0.005,size=1", (), 16, 1),
        ("first=0.1,every=0.05,size=4", (), 4, 4),
        ("first=0.2,every=0,size=16", (), 1, 16),
        ("first=0.1,every=0.05,size=4", ("--diffusing",), 4, 4),
    ],
)
def test_a_known_schedule_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType,
    schedule: str, flags: tuple[str, ...], blocks: int, size: int,
) -> None:  # fmt: skip
    known = Schedule.read(schedule)
    with serving.served(Scripted(known)) as url:
        stored = measured(
            capsys, tmp_path / "load", url, "--requests", 6, "--output-tokens", 16, "--prompt-tokens", 8, *flags,
            "--together", 0,
        )  # fmt: skip
    counted = [request for request in stored.requests if request.part == "counted"]
    assert [request.status for request in counted] == ["ok"] * 6
    for request in counted:
        assert (request.tokens, request.output_tokens, request.usage_output_tokens) == (16, 16, 16)
        assert request.prompt_tokens == 8
        assert [final for _, final in request.chunks] == [min(size * (i + 1), 16) for i in range(blocks)]
        for block, (at, _) in enumerate(request.chunks):
            assert at >= known.at_s(block) - 1e-3
    truth = known.at_s(blocks - 1)
    assert value(stored, "serving.latency_s[p50]") >= truth
    assert value(stored, "serving.ttft_s[p50]") >= known.first_s
    assert value(stored, "serving.e2e_per_token_s[p50]") == pytest.approx(value(stored, "serving.latency_s[p50]") / 16)
    assert value(stored, "serving.revised_share[p50]") == (1.0 if flags else 0.0)
    assert stored.run.tokenizer.name == embedded_tokenizer().name
    assert stored.run.endpoints[0].side == ("ar" if size == 1 else "diffusion")
    if blocks == 1:
        assert value(stored, "serving.peer_tpot_s") == 0.0
        assert stored.run.levels[0].metrics["serving.peer_tok_s_user"].value is None
    # The server told when it sent: the client's stamps are later, and the record says by how much.
    assert value(stored, "serving.added_s[p50]") >= 0


def test_an_open_loop_begins_requests_whatever_becomes_of_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType
) -> None:
    with serving.served(Scripted(Schedule(3.0, 0.0, 64))) as url:
        stored = measured(
            capsys, tmp_path / "load", url, "--rate", 40, "--arrivals", "constant", "--duration", 0.5,
            "--output-tokens", 8, "--prompt-tokens", 8, "--warmup", 0,
        )  # fmt: skip
    counted = [request for request in stored.requests if request.part == "counted"]
    assert len(counted) == 20
    # All were sent before the first was answered.
    assert stored.run.windows[0].most_open == 20
    assert [request.due_s for request in counted] == pytest.approx([0.025 * (i + 1) for i in range(20)], abs=1e-6)
    assert all(request.sent_s >= request.due_s for request in counted)
    assert value(stored, "serving.lag_s[p50]") >= 0


def test_two_servers_take_turns_and_are_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType
) -> None:
    slow, fast = Scripted(Schedule(0.05, 0.01, 1)), Scripted(Schedule(0.08, 0.0, 16))
    with serving.served(fast) as diffusion, serving.served(slow) as ar:
        stored = measured(
            capsys, tmp_path / "load", diffusion, ar, "--requests", 3, "--rounds", 5, "--warmup", 1,
            "--output-tokens", 16, "--prompt-tokens", 8,
        )  # fmt: skip
    assert [window.endpoint for window in stored.run.windows] == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1]
    (ratio,) = stored.run.ratios
    found = ratio.metrics["serving.throughput_tok_s"]
    # Diffusion over AR, whatever the order in which they were given: 200 ms against 80 ms.
    assert found.value is not None
    assert 1 < found.value < 20
    assert (found.n, found.level) == (5, 0.95)
    assert [row.verdict for row in stored.run.certificate if row.quantity == "model"] == ["same"]
    assert any("hardware" in line for line in stored.run.unknown)
    text = (tmp_path / "load" / "summary.md").read_text()
    assert "diffusion over AR" in text
    assert "What is known of both servers" in text


def test_a_sweep_ends_where_more_load_brings_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlmbench.bench.load.session._MOST_LEVELS", 3)
    with serving.served(Scripted(Schedule(0.05, 0.0, 64))) as url:
        stored = measured(
            capsys, tmp_path / "load", url, "--sweep", "--requests", 12, "--output-tokens", 8, "--prompt-tokens", 8
        )
    found = stored.run.saturation
    assert found is not None
    assert [level.value for level in found.levels] == [1, 2, 4]
    assert found.ended == "the most levels"
    best = max(level.requests_s for level in found.levels)
    assert found.at == next(level.value for level in found.levels if level.requests_s >= 0.95 * best)


def test_faults_are_counted_and_nothing_answered_is_no_measurement(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = load(
        capsys,
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        "--requests",
        5,
        "--prompt-tokens",
        8,
        "--out",
        tmp_path / "load",
    )
    assert code == 4, err
    (level,) = read_load(tmp_path / "load").run.levels
    assert level.faults == {"refused": 5}
    assert level.metrics["serving.error_share"].value == 1.0
    assert "refused" in (tmp_path / "load" / "report.html").read_text()


def test_a_key_is_in_no_file_and_no_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving.served(Scripted(Schedule(0.0, 0.0, 64))) as url:
        code, out, err = load(
            capsys, url, "--key-env", "MY_KEY", "--requests", 2, "--output-tokens", 4, "--prompt-tokens", 8, "--json",
            "--out", tmp_path / "load",
        )  # fmt: skip
        assert code == 0
        bad = load(capsys, url, "--key-env", "MY_KEY", "--model", "other", "--requests", 2, "--out", tmp_path / "bad")
    assert bad[0] == 4
    document = json.loads(out)
    assert document["load"]["endpoints"][0]["key"] == "environment variable MY_KEY"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert all(SECRET not in text for text in (out, err, *bad[1:]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "expected a URL such as"),
        (["http://127.0.0.1:9/v1"], "give --model"),
        (["http://u:p@h/v1"], "use --key-env or --key-file"),
        (["http://127.0.0.1:9/v1", "--model", "a,b"], "one for each of 1 targets"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--key-env", "NO_SUCH_KEY"], "not set"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--side", "both"], "--side"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--diffusing"], "has no such stream"),
        (["vllm", "--preset", "sglang", "--model", "m"], "is a preset already"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--prompt-tokens", "9999999"], "--prompt-tokens 9999999"),
        (["http://127.0.0.1:9/v1", "--model", "m", "--tokenizer", "/nowhere"], "nowhere"),
        (["http://8.8.8.8/v1", "--model", "m", "--requests", "100000"], "public address"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dlmbench.bench.load.targets._ASK_S", 0.5)
    code, out, err = load(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_key_does_not_go_over_the_open_network(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    asked: list[object] = []
    monkeypatch.setattr("dlmbench.bench.load.targets._models", lambda *given: asked.append(given) or [])
    code, _, err = load(capsys, "http://8.8.8.8/v1", "--model", "m", "--key-env", "MY_KEY", "--out", tmp_path / "x")
    assert code == 2
    assert "unencrypted" in err
    assert not asked


def test_a_key_in_the_environment_goes_to_nobody_whom_it_was_not_meant_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "INCEPTION_API_KEY", "VLLM_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    with serving.served(Scripted(Schedule(0.0, 0.0, 64))) as url:
        flags = ("--requests", 1, "--warmup", 0, "--output-tokens", 4, "--prompt-tokens", 8)
        assert measured(capsys, tmp_path / "a", url, *flags).run.endpoints[0].key is None
        named = measured(capsys, tmp_path / "b", url, "--preset", "vllm", *flags)
    assert named.run.endpoints[0].key == "environment variable VLLM_API_KEY"


def test_show_and_report_read_a_load(capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType) -> None:
    with serving.served(Scripted(Schedule(0.0, 0.0, 4))) as url:
        stored = measured(
            capsys, tmp_path / "load", url, "--requests", 2, "--output-tokens", 8, "--prompt-tokens", 8,
            "--objective", "ttft=5", "--price-prompt", 1, "--price-output", 2,
        )  # fmt: skip
    assert value(stored, "serving.good_share") == 1.0
    assert value(stored, "serving.cost") == pytest.approx(2 * (8 * 1 + 8 * 2) * 1e-6)
    page = tmp_path / "load" / "report.html"
    before = page.read_bytes()
    page.unlink()
    argv, sys.argv = sys.argv, ["dlmbench", "report", str(tmp_path / "load")]
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv = argv
    assert end.value.code in (0, None)
    assert page.read_bytes() == before
    assert b"goodput" in before


def test_the_server_counts_with_its_own_tokenizer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: ModuleType
) -> None:
    with serving.served(Scripted(Schedule(0.0, 0.01, 4))) as url:
        flags = ("--requests", 2, "--output-tokens", 8, "--prompt-tokens", 8, "--warmup", 0)
        asked = measured(capsys, tmp_path / "a", url, *flags, "--tokenizer", "server")
        known = measured(capsys, tmp_path / "b", url, *flags, "--tokenizer", "embedded")
        refused = load(capsys, url, "--preset", "transformers", *flags, "--tokenizer", "server")
    assert asked.run.tokenizer.name == "the server's (scripted)"
    assert [[final for _, final in r.chunks] for r in asked.requests] == [[4, 8]] * 2
    assert [r.tokens for r in asked.requests] == [r.tokens for r in known.requests]
    # The very prompts, cut by either.
    bodies = [run.prompts.sha256_of_bodies for run in (asked.run, known.run)]
    assert bodies[0] == bodies[1]
    assert refused[0] == 2
    assert "has none to be asked" in refused[2]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_load_that_is_stopped_keeps_its_finished_windows(tmp_path: Path, serving: ModuleType) -> None:
    folder = tmp_path / "load"
    with serving.served(Scripted(Schedule(0.05, 0.0, 64))) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "dlmbench.bench.cli", "load", url, "--requests", "3", "--rounds", "1000",
             "--output-tokens", "8", "--prompt-tokens", "8", "--out", str(folder)],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (is_load(folder) and read_load(folder).run.windows):
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert f"go on with: dlmbench load --resume {folder}" in err
    stored = read_load(folder)
    assert stored.run.windows
    assert len(stored.requests) == 4 * len(stored.run.windows)  # three and a warm-up each
