"""`dlmbench load` against `transformers serve`: a real server of other people's, with a tiny checkpoint made here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlmbench.bench.load.command import load_command
from dlmbench.bench.load.given import load_options
from dlmbench.models.tokenizer import EOS, TEXT_FOLDER
from dlmbench.profiles.serving.store import read_load

pytest.importorskip("fastapi", reason="the extra `serving` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="process groups")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one narrow layer with random weights, and the tokenizer that ships."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint")
    backend = tokenizers.Tokenizer.from_file(str(TEXT_FOLDER / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("transformers"), "serve", str(checkpoint), "--host", "127.0.0.1",
             "--port", str(port), "--device", "cpu"],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(("api", "at_once"), [("completions", False), ("chat", False), ("completions", True)])
def test_a_server_of_other_people(url: str, checkpoint: Path, tmp_path: Path, api: str, at_once: bool) -> None:
    from rich.console import Console

    options = load_options(
        [url],
        {"preset": "transformers", "model": str(checkpoint), "api": api, "side": "ar"},
        {"tokenizer": str(checkpoint), "requests": 4, "warmup": 1, "prompt_tokens": 16, "output_tokens": 24,
         "temperature": 0.0},
        at_once=at_once,
    )  # fmt: skip
    _, answered = load_command(options, ("dlmbench", "load"), Console(quiet=True), out=tmp_path / "load")
    assert answered
    stored = read_load(tmp_path / "load")
    counted = [request for request in stored.requests if request.part == "counted"]
    assert [request.status for request in counted] == ["ok"] * 4
    for request in counted:
        assert request.usage_output_tokens == 24
        assert request.usage_prompt_tokens is not None
        # A chat template may add to the prompt, and nothing takes away from it.
        assert request.usage_prompt_tokens >= 16
        assert (len(request.chunks) == 1) == at_once
        assert request.output_tokens is not None
        assert request.chunks[-1][1] == request.tokens == request.output_tokens
    level = stored.run.levels[0]
    assert level.metrics["serving.throughput_tok_s"].value is not None
    # What random weights write need not encode to as many tokens again: then the record says so.
    ours, theirs = sum(r.output_tokens or 0 for r in counted), sum(r.usage_output_tokens or 0 for r in counted)
    assert (level.usage_differs is not None) == (abs(theirs / ours - 1) > 0.01)
