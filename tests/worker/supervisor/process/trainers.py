"""Trainers of tests, started from a forkserver, and waits for what they do."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from worker.supervisor.process.child import Child, Forkserver

TRAINERS = "tests.worker.supervisor.small_trainers"


def introduced(forkserver: Forkserver, workspace: Path, **environment: str) -> dict[str, Any]:
    """What a trainer could see of its process."""
    forkserver.entry = f"{TRAINERS}:introduce"
    with forkserver.start(workspace, environment=environment) as child:
        assert child.wait(PATIENCE) == 0, (workspace / "log.txt").read_text()
    seen: dict[str, Any] = json.loads((workspace / "seen.json").read_text())
    return seen


def sleeping(forkserver: Forkserver, workspace: Path, habit: str) -> Child:
    """A trainer with this habit that has begun to sleep."""
    forkserver.entry = f"{TRAINERS}:{habit}"
    child = forkserver.start(workspace)
    wait_for((workspace / "asleep").exists)
    return child


def read(path: Path) -> str:
    """The file's text, once there is some."""
    wait_for(lambda: path.exists() and path.read_text() != "")
    return path.read_text()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
