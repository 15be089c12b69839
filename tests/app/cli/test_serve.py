"""The worker beside the API, and what `/readyz` says while it cannot be kept alive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.servers import free_port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    # No worker starts with these devices.
    own = {"PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_DEVICES": "abacus"}
    return {**os.environ, **own, "PERMAFROST_PORT": str(free_port())}


def test_a_worker_that_ends_again_and_again_is_reported(environment: dict[str, str]) -> None:
    """With its exit code and how often; the process that serves is alive all the same."""
    command = [sys.executable, "-P", "-m", "app.cli.main", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as serving:
        try:
            _await_deaths(serving, 2)
            with httpx2.Client(base_url=f"http://127.0.0.1:{environment['PERMAFROST_PORT']}") as client:
                ready, live = client.get("/readyz"), client.get("/healthz")
        finally:
            serving.terminate()
            assert serving.stdout is not None
            serving.stdout.read()

    assert (ready.status_code, ready.json()["status"]) == (503, "unready")
    assert list(ready.json()["problems"]) == ["worker"]
    assert "exit code 1" in ready.json()["problems"]["worker"]
    assert "2 times in a row" in ready.json()["problems"]["worker"]
    assert live.status_code == 200


def _await_deaths(serving: subprocess.Popen[str], count: int) -> None:
    """Reads what is printed until the worker has ended so often."""
    assert serving.stdout is not None
    for line in serving.stdout:
        count -= "the worker ended" in line
        if count == 0:
            return
    raise AssertionError("it ended")
