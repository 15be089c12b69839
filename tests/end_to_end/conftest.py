"""The service as its users run it: processes, HTTP, real trainers."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db import Database
from app.settings import Settings
from tests.hub import Hub, serving
from tests.patience import PATIENCE
from tests.servers import another_database, free_port

ROOT = Path(__file__).parents[2]
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Service:
    """A running API with its workers, and a client to it."""

    environment: dict[str, str]
    client: httpx2.Client
    processes: list["Running"]
    hub: Hub

    @property
    def settings(self) -> Settings:
        given = {name.removeprefix("PERMAFROST_").lower(): value for name, value in self.environment.items()}
        return Settings(**given)  # type: ignore[arg-type]

    def get(self, path: str) -> Any:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        response = self.client.post(path, json=body)
        assert response.status_code == status, response.text
        return response.json()

    def upload(self, content: bytes, name: str) -> str:
        files = {"file": (name, content)}
        response = self.client.post("files", data={"purpose": "fine-tune"}, files=files)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> Any:
        return self.get(f"fine_tuning/jobs/{job_id}")

    def ended(self, job_id: str, *, seconds: float = PATIENCE) -> Any:
        """The job once it has ended."""
        return self.until(job_id, lambda job: job["status"] in ENDED, seconds=seconds)

    def until(self, job_id: str, condition: Any, *, seconds: float = PATIENCE) -> Any:
        deadline = time.monotonic() + seconds
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"{job}\n{self.log()}"
            time.sleep(0.02)
        return job

    def log(self) -> str:
        return "\n".join(line for process in self.processes for line in process.lines[-40:])


@dataclass
class Running:
    """One process and what it printed."""

    command: list[str]
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)
    cwd: Path = ROOT

    def __post_init__(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *self.command],
            cwd=self.cwd,
            env=inherited | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def says(self, word: str, *, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not any(word in line for line in list(self.lines)):
            assert time.monotonic() < deadline and self.popen.poll() is None, "\n".join(self.lines)
            time.sleep(0.02)

    def stop(self, *, seconds: float = PATIENCE) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        finally:
            self.popen.kill()
            self._thread.join()
            assert self.popen.stdout is not None
            self.popen.stdout.close()

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The model hub that workers know. Tests put the files of `acme/tiny` there."""
    with serving(Hub("acme/tiny", {})) as served:
        yield served


@pytest.fixture(scope="session", params=["embedded", "deployed"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Service]:
    """`permafrost serve` on SQLite; or `migrate`, `serve --no-worker` and `worker` on PostgreSQL and Redis."""
    port = free_port()
    environment = {
        "PERMAFROST_DATA_DIR": str(tmp_path_factory.mktemp("service")),
        "PERMAFROST_PORT": str(port),
        "PERMAFROST_DEVICES": "cpu",
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "PERMAFROST_FETCH_ALLOW": "127.0.0.0/8",
    }
    if request.param == "deployed":
        environment["PERMAFROST_DATABASE_URL"] = request.getfixturevalue("service_database")
        # Not the keys of other tests: they empty theirs, and their messages would be heard here.
        environment["PERMAFROST_BROKER_URL"] = another_database(request.getfixturevalue("redis_server"))
    processes: list[Running] = []
    try:
        for command, word in _commands(environment, embedded=request.param == "embedded"):
            processes.append(Running(command, environment))
            processes[-1].says(word)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1/", timeout=PATIENCE) as client:
            yield Service(environment, client, processes, hub)
    finally:
        codes = [process.stop() for process in reversed(processes)]
    assert set(codes) == {0}, "\n".join(line for process in processes for line in process.lines[-40:])


@pytest.fixture(scope="session")
def service_database(postgres_server: str) -> Iterator[str]:
    from tests.servers import fresh_database

    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def service_db(service: Service) -> Iterator[Database]:
    """The service's own database, to look behind the API where it does not say."""
    database = Database(service.settings.database)
    yield database
    database.close()


def _commands(environment: dict[str, str], *, embedded: bool) -> list[tuple[list[str], str]]:
    """What to start, and what each says once it is there."""
    if embedded:
        return [(["app.cli.main", "serve"], "permafrost ready")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
    subprocess.run([sys.executable, "-m", "app.cli.main", "migrate"], cwd=ROOT, env=inherited | environment, check=True)
    return [(["app.cli.main", "serve", "--no-worker"], "permafrost ready"), (["worker"], "permafrost worker ready")]


@pytest.fixture(scope="module")
def table(service: Service) -> str:
    """A CSV file of four features and their sum."""
    chance = random.Random(1)
    lines = ["a,b,c,d,y"]
    for _ in range(64):
        values = [chance.uniform(-1, 1) for _ in range(4)]
        lines.append(",".join(f"{value:.6f}" for value in [*values, sum(values)]))
    return service.upload("\n".join(lines).encode(), "table.csv")
