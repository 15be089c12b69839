"""Real tracking servers on loopback, MLflow's and Trackio's, from environments of their own (tools/peers.toml)."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.patience import PATIENCE
from tests.servers import free_port
from tools import peers


@contextmanager
def mlflow(folder: Path, *, port: int | None = None) -> Iterator[str]:
    """The URL of a server whose runs, models and artifacts are below `folder`; started there again, it has them."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = [str(peers.command("mlflow")), "server", "--backend-store-uri", store, "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with _running([*command, "--workers", "1"], folder, environment, asked=f"{url}/health"):
        yield url


@contextmanager
def trackio(folder: Path, *, token: str) -> Iterator[str]:
    """The URL of a server that takes runs with a write token, and keeps them below `folder`."""
    port = free_port()
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"HOME": str(folder), "TRACKIO_DIR": str(folder / "runs"), "TRACKIO_WRITE_TOKEN": token}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_NUM_PORTS": "1", "BROWSER": "true", "HF_HUB_OFFLINE": "1"}
    url = f"http://127.0.0.1:{port}"
    with _running([str(peers.command("trackio")), "show"], folder, environment, asked=f"{url}/version"):
        yield url


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str], *, asked: str) -> Iterator[None]:
    """While the block runs, a server that answers to `asked`."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env=environment, **quiet) as server:  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + PATIENCE
            while not _answers(asked):
                assert server.poll() is None and time.monotonic() < deadline, f"{command[0]} does not answer"
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
