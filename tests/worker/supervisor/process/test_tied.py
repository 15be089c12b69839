"""Processes of a worker that is killed with SIGKILL, whatever they are busy with at that moment."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.hub import Hub, serving
from tests.patience import PATIENCE
from tests.worker.supervisor.jobs import eventually

FORKSERVER = """
import pathlib, sys
from worker.supervisor.process.child import Forkserver
Forkserver(home=pathlib.Path(sys.argv[1]), preload=["tests.worker.supervisor.process.endless_import"]).warm()
"""
FETCHER = """
import pathlib, sys
from worker.supervisor import hub
hub.fetch("acme/tiny", "main", pathlib.Path(sys.argv[1]) / "hub", max_bytes=10_000, stop=lambda: False)
"""


class Withheld(dict[str, bytes]):
    """Files that are listed, and sent once the test is over."""

    def __init__(self) -> None:
        super().__init__({"model.safetensors": b"\x02\0\0\0\0\0\0\0{}", "config.json": b"{}"})
        self.requested, self.released = threading.Event(), threading.Event()

    def __getitem__(self, name: str) -> bytes:
        self.requested.set()
        self.released.wait()
        return super().__getitem__(name)


@pytest.fixture
def withheld(monkeypatch: pytest.MonkeyPatch) -> Iterator[Withheld]:
    """The files of a hub that does not answer requests for them."""
    files = Withheld()
    with serving(Hub("acme/tiny", files)) as hub:
        for name, value in {"ENDPOINT": hub.url, "HUB_ETAG_TIMEOUT": "3600", "HUB_DOWNLOAD_TIMEOUT": "3600"}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield files
        files.released.set()


def test_forkserver_that_is_importing(tmp_path: Path) -> None:
    """It listens to nothing while torch is imported, for seconds, and ends all the same."""
    _ends_with_its_worker(FORKSERVER, tmp_path, lambda: (tmp_path / "importing").exists())


def test_fetcher_that_waits_for_a_hub(withheld: Withheld, tmp_path: Path) -> None:
    """No other process would use what it downloads."""
    _ends_with_its_worker(FETCHER, tmp_path, withheld.requested.is_set)


def _ends_with_its_worker(script: str, folder: Path, busy: Callable[[], bool]) -> None:
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], start_new_session=True) as worker:
        eventually(busy)
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    for child in alive:
        child.kill()
    assert len(children) == 1 and alive == []
