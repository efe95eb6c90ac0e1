"""What the client of `dlmbench load` adds to a time stamp while 2,000 streams bring 20,000 chunks a second.

The server is a process of its own and tells when it sent each chunk, on the clock that both share. Its lateness is not
in the figure, the client's is: sockets, the event loop and every stream that was served before.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dlmbench.bench.load.driver import Opened, WindowPlan, run_window
from dlmbench.bench.load.reading import read_window
from dlmbench.bench.serve.files import raise_file_limit
from dlmbench.models.endpoints.client import Limits
from dlmbench.models.endpoints.endpoint import Endpoint
from dlmbench.models.endpoints.loop import run_loop
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.profiles.serving.record import Load

CHUNKS = 150
# Connections are made and requests sent before the first chunk comes.
FIRST_S = 3.0


def cpu_s() -> float:
    """Processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("streams", [200, 2000])
def test_stamps_of_many_streams(benchmark: Any, streams: int) -> None:
    raise_file_limit(streams)
    every = streams / 20_000  # so that all of them together bring 20,000 chunks a second
    server = subprocess.Popen(
        [sys.executable, "-m", "dlmbench.bench.cli", "serve", "--json", "--port", "0",
         "--schedule", f"first={FIRST_S},every={every},size=1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        endpoint = Endpoint(url, "scripted", style="completions", extra={"dlmbench_stamps": True})
        body = endpoint.body("go", CHUNKS, None)
        plan = WindowPlan(
            Load(kind="closed", value=streams), requests=streams, duration_s=60, ramp_s=0, warmup=0, retries=0, seed=0,
            fresh=False, limits=Limits(),
        )  # fmt: skip

        async def watched() -> tuple[Opened, float, float]:
            begin = cpu_s()
            window = asyncio.create_task(run_window(endpoint, plan, lambda _: body))
            await asyncio.sleep(FIRST_S - 0.1)
            connected = cpu_s()
            opened = await window
            return opened, connected - begin, cpu_s() - connected

        opened, connecting_s, receiving_s = benchmark.pedantic(lambda: run_loop(watched()), rounds=1, iterations=1)
    finally:
        server.terminate()
        server.wait(30)
    requests = read_window(0, opened, endpoint, embedded_tokenizer(), None)
    assert all(request.status == "ok" for request in requests)
    added = np.array([late for request in requests for late in request.served["added_s"]])
    assert added.size > 0.99 * streams * CHUNKS  # a token that ends inside a character is sent with the next one
    seconds = (max(asked.exchange.end_ns for asked in opened.asked) - opened.began_ns) * 1e-9 - FIRST_S
    p50, p99, most = (1e3 * float(np.quantile(added, q)) for q in (0.5, 0.99, 1.0))
    busy = added.size / receiving_s
    benchmark.extra_info.update(added_p50_ms=p50, added_p99_ms=p99, chunks_per_cpu_second=busy)
    print(
        f"\n{streams} streams, {added.size:,} chunks: added p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {most:.1f} ms; "
        f"{added.size / seconds:,.0f} chunks a second came, the client took {receiving_s:.2f} s of processor for them: "
        f"{busy:,.0f} a second of it; {1e3 * connecting_s / streams:.2f} ms of it for each connection before"
    )
