"""`make demo` itself, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_holds_what_it_promises(tmp_path: Path) -> None:
    """The whole story over HTTP ends with exit code 0, and says so of each of its parts."""
    command = [sys.executable, "-m", "demo"]
    # The demo is not installed, and its files go into the working folder, which is not the repository here.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert done.stdout.count("✓ requires_grad") == 2
    assert "VERIFIED, level 3" in done.stdout
    assert "REJECTED" in done.stdout
    assert "All of it held" in done.stdout
