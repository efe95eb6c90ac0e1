"""kill -9 at random moments of whole runs and gates. A hundred of each: `python tests/bench/kills.py run gate`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_no_finished_cell_is_lost_or_measured_twice() -> None:
    program = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, program, "run", "gate", "--kills", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 kills") == 2
