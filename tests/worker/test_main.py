"""A worker process that cannot start says why in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Deployment


def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "worker"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_database_without_tables(tmp_path: Path, database_url: str) -> None:
    """The command that makes them is named; there is no traceback."""
    done = start({"PERMAFROST_DATA_DIR": str(tmp_path), "PERMAFROST_DATABASE_URL": database_url})
    assert done.returncode == 1
    assert "permafrost migrate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("devices", ["abacus", "cuda:99"])
def test_devices_that_are_not_there(deployment: Deployment, devices: str) -> None:
    """The variable is named, and what it may be."""
    done = start(deployment.environment | {"PERMAFROST_DEVICES": devices})
    assert done.returncode == 1
    assert f"PERMAFROST_DEVICES={devices}" in done.stderr
    assert "Traceback" not in done.stderr
