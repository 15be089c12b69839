"""The line at the end of `make test`, which runs its tests in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", ["0", "2"])
def test_score_is_printed(processes: str) -> None:
    """One leak and one look-alike: caught, silent, and counted once each, in one process or in two."""
    cases = "test_a_leak_is_reported[O1] or test_a_control_is_silent[dropout]"
    command = [sys.executable, "-m", "pytest", "tests/leaks/test_gauntlet.py", "-q", "-n", processes, "-k", cases]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=200, check=False)
    assert "leak gauntlet: 1/1 caught, 0/1 false alarms" in done.stdout, done.stdout[-2000:]
