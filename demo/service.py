"""A real `permafrost serve` in a process of its own, on a free loopback port, spoken to over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

#: The command, as it was installed beside this interpreter.
PERMAFROST = str(Path(sys.executable).with_name("permafrost"))
START_SECONDS = 60
STOP_SECONDS = 30


class ServiceError(Exception):
    """The service did not do what was asked; the message says what it answered, and where its log is."""


class Service:
    """Context manager: started and ready inside the block, stopped by its pid afterwards."""

    def __init__(
        self,
        home: Path,
        *,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        command: Sequence[str] = (PERMAFROST, "serve"),
        cwd: Path | None = None,
    ) -> None:
        self.home = home.absolute()
        self.log = self.home / "service.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [*command, *options]
        self._cwd = cwd
        self._client = httpx2.Client(base_url=self.url, timeout=60, headers=dict(headers or {}))

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._full_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "outside of the block there is no process"
        return self._process.pid

    def get(self, path: str, **query: Any) -> Any:
        return self._checked(self._client.get(path, params=query)).json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._checked(self._client.post(path, json=body)).json()

    def read(self, path: str) -> bytes:
        return self._checked(self._client.get(path)).content

    def download(self, path: str, to: Path) -> Path:
        with self._client.stream("GET", path) as response, to.open("wb") as file:
            if response.is_error:
                response.read()
            self._checked(response)
            for chunk in response.iter_bytes():
                file.write(chunk)
        return to

    def upload(self, content: bytes, *, name: str) -> str:
        """Id of a new training file."""
        answer = self._client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
        return str(self._checked(answer).json()["id"])

    def stop(self) -> int | None:
        """Asks the service to end as Ctrl-C does, insists after a while, and returns its exit code."""
        self._client.close()
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise ServiceError(
                    f"`permafrost serve` ended with exit code {self._process.returncode}:\n{self._tail()}"
                )
            try:
                if self._client.get("/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise ServiceError(f"`permafrost serve` was not ready after {START_SECONDS} s:\n{self._tail()}")

    def _full_environment(self) -> dict[str, str]:
        """This process's environment, but no PERMAFROST_* setting of it: the service is to be the default one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
        port = self.url.rpartition(":")[2]
        own = {"PERMAFROST_DATA_DIR": str(self.home), "PERMAFROST_HOST": "127.0.0.1", "PERMAFROST_PORT": port}
        return inherited | own | self._environment

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        if response.is_error:
            request = response.request
            raise ServiceError(f"{request.method} {request.url.path} answered {response.status_code}: {response.text}")
        return response

    def _tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
