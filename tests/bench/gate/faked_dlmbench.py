"""`dlmbench`, whole, but for its workers: they answer at once, and the head's take $SLOWER more time.

For tests that run a CI job's own commands.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from typing import Any

spec = importlib.util.spec_from_file_location("bench_fake_workers", Path(__file__).parents[1] / "fake_workers.py")
assert spec is not None
assert spec.loader is not None
fakes = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = fakes
spec.loader.exec_module(fakes)

draw = random.Random(7)


def plan(handle: Any) -> None:
    """A side is told by the folder that its workers run in: …/head/checkout."""
    slower = float(os.environ.get("SLOWER", "0")) if "head" in handle.launch.folder.parts else 0.0
    process = draw.gauss(0, 0.004)
    handle.worker.latency = lambda cell, number: 0.01 * (1 + slower) * (1 + process) * (1 + 0.01 * draw.random())


if __name__ == "__main__":
    from dlmbench.bench import cli
    from dlmbench.bench.gate import campaign, measure

    fakes.Handle.plan = staticmethod(plan)
    measure.WorkerHandle = fakes.Handle  # type: ignore[misc]
    campaign.prove = lambda *_: None  # a fake worker ran nobody's code
    cli.main()
