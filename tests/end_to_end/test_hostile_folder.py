"""Started in a folder full of Python files that are named like our imports, no process of ours executes one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.patience import PATIENCE
from tests.servers import free_port

pytestmark = pytest.mark.slow

PERMAFROST = Path(sys.executable).with_name("permafrost")
#: Modules that some process of ours imports, or that Python and Celery look for by themselves.
NAMES = (
    "structlog", "sqlalchemy", "celery", "celeryconfig", "kombu", "redis", "alembic", "uvicorn", "psycopg", "pydantic",
    "torch", "numpy", "transformers", "safetensors", "huggingface_hub", "httpx2", "xxhash", "cryptography",
    "sitecustomize", "usercustomize", "random", "json", "logging",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each file in it says that it was executed, by name, in `tmp_path/executed`."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in NAMES:
        line = f"open({str(tmp_path / 'executed')!r}, 'a').write('{name}\\n')\n"
        (folder / f"{name}.py").write_text(line)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PERMAFROST_", "PYTHON"))}
    own = {"PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_DEVICES": "cpu", "OMP_NUM_THREADS": "1"}
    return inherited | own | {"PERMAFROST_PORT": str(free_port())}


def test_the_files_would_be_executed(folder: Path, tmp_path: Path) -> None:
    """By Python's `-m`, or an empty list of executed files would mean nothing."""
    subprocess.run([sys.executable, "-m", "structlog"], cwd=folder, check=True)
    assert (tmp_path / "executed").read_text() == "structlog\n"


def test_serve_its_worker_and_a_trainer(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """A job from the first request to its end: API, worker, forkserver and trainers have all been started."""
    with running([str(PERMAFROST), "serve"], folder, environment) as lines:
        lines.wait_for("permafrost ready")
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{environment['PERMAFROST_PORT']}/v1/", timeout=PATIENCE
        ) as client:
            table = b"x,y\n" + b"".join(f"{row},{2 * row}\n".encode() for row in range(8))
            file = client.post("files", data={"purpose": "fine-tune"}, files={"file": ("a.csv", table)}).json()["id"]
            model = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 1, "out_features": 1}}
            client.post("fine_tuning/jobs", json={"model": model, "training_file": file}).raise_for_status()
        lines.wait_for("attempt ended")
    assert executed(tmp_path) == []
    assert "succeeded" in "\n".join(lines.lines)


@pytest.mark.parametrize("command", [[str(PERMAFROST), "worker"], [sys.executable, "-m", "worker"]], ids=["own", "-m"])
def test_a_worker_alone(command: list[str], folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """As `permafrost worker`, and by hand as Python's `-m` would start it."""
    subprocess.run([str(PERMAFROST), "migrate"], cwd=folder, env=environment, check=True)
    with running(command, folder, environment) as lines:
        lines.wait_for("permafrost worker ready")
    assert executed(tmp_path) == []


def executed(tmp_path: Path) -> list[str]:
    path = tmp_path / "executed"
    return sorted(set(path.read_text().split())) if path.exists() else []


class Lines:
    """What a process has printed. A wait ends with the line or with the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait_for(self, text: str) -> None:
        with self._news:
            self._news.wait_for(lambda: self._ended or any(text in line for line in self.lines), timeout=PATIENCE)
            assert any(text in line for line in self.lines), "\n".join(self.lines[-40:])

    def close(self) -> None:
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Lines]:
    """The command's lines while it runs in `folder`; it is asked to stop at the end, and waited for."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = Lines(process)
    try:
        yield lines
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            lines.close()
