"""A real MLflow server on loopback, from an environment of its own (tools/peers.toml)."""

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
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with subprocess.Popen([*command, "--workers", "1"], cwd=folder, env=environment, **quiet) as server:  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + PATIENCE
            while not _answers(url):
                assert server.poll() is None and time.monotonic() < deadline, "MLflow does not answer"
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
