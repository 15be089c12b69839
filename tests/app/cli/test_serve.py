"""`permafrost serve`: it starts API and worker, stops both, and `/readyz` reports a worker that keeps dying."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.app.cli.commands import Command
from tests.app.conftest import AFFINE, rows
from tests.living import command_of, lives
from tests.patience import PATIENCE
from tests.servers import free_port


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_serve_makes_its_tables_answers_and_stops(
    serving: Callable[..., tuple[subprocess.Popen[str], str]], by: int
) -> None:
    """Ready means ready; a signal ends it with code 0, also while a stream is open."""
    process, url = serving("--no-worker")
    assert httpx2.get(f"{url}/readyz", timeout=PATIENCE).json()["status"] == "ready"
    with httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as client:
        content = "\n".join(map(json.dumps, rows())).encode()
        form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", content)}}
        file = client.post("files", **form).json()["id"]
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]
        with client.stream("GET", f"fine_tuning/jobs/{job}/events?stream=true") as stream:
            next(stream.iter_bytes())
            process.send_signal(by)
            assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_serve_brings_a_worker_and_takes_it_along(
    serving: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    """The worker is a child; killed, it comes back; when serve stops, nothing of it is left."""
    process, _ = serving()

    def worker() -> psutil.Process:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for child in psutil.Process(process.pid).children():
                if lives(child) and command_of(child)[1:] == ["-P", "-m", "worker"]:
                    return child
            time.sleep(0.1)
        raise AssertionError("no worker was started")

    first = worker()
    first.kill()
    first.wait(PATIENCE)
    second = worker()
    assert second.pid != first.pid
    assert process.stdout is not None
    assert any("permafrost worker ready" in line for line in process.stdout)
    left = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert psutil.wait_procs(left, timeout=PATIENCE)[1] == []


@pytest.mark.slow
def test_a_serve_that_is_killed_leaves_no_worker(
    serving: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    """kill -9 of the parent reaches the worker through the kernel."""
    process, _ = serving()
    assert process.stdout is not None
    assert any("permafrost worker ready" in line for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


def test_serve_on_a_port_that_is_taken_fails(permafrost: Command) -> None:
    """With the reason, and without a worker left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = permafrost("serve", "--no-worker", PERMAFROST_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "--port" in done.stderr


@pytest.fixture
def without_devices(tmp_path: Path) -> dict[str, str]:
    # No worker starts with these devices.
    own = {"PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_DEVICES": "abacus"}
    return {**os.environ, **own, "PERMAFROST_PORT": str(free_port())}


def test_a_worker_that_ends_again_and_again_is_reported(without_devices: dict[str, str]) -> None:
    """With its exit code and how often; the process that serves is alive all the same."""
    command = [sys.executable, "-P", "-m", "app.cli.main", "serve"]
    with subprocess.Popen(
        command, env=without_devices, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as serving:
        try:
            _await_deaths(serving, 2)
            url = f"http://127.0.0.1:{without_devices['PERMAFROST_PORT']}"
            with httpx2.Client(base_url=url, timeout=PATIENCE) as client:
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
