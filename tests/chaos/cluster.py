"""The whole service as real processes, each of which may be killed, stopped and started again."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.jobs.queue.tables import Event, Job
from app.settings import Settings
from tests.chaos.servers import Postgres, Redis
from tests.end_to_end.conftest import ENDED, ROOT, Running
from tests.patience import PATIENCE
from tests.servers import free_port

#: Short enough to wait for, long enough that a busy machine loses none by accident.
QUICK = {
    "PERMAFROST_LEASE_SECONDS": "8",
    "PERMAFROST_HEARTBEAT_SECONDS": "1",
    "PERMAFROST_SWEEP_SECONDS": "0.5",
    "PERMAFROST_GRACE_SECONDS": "15",
}


class Cluster:
    """API, a worker, PostgreSQL and Redis. `repair` brings back whatever a test has broken."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="permafrost-chaos-"))
        self.root.chmod(0o755)
        self.postgres, self.redis = Postgres(), Redis(_made(self.root / "redis"))
        self.environment = {
            "PERMAFROST_DATA_DIR": str(_made(self.root / "data")),
            "PERMAFROST_DATABASE_URL": self.postgres.url,
            "PERMAFROST_BROKER_URL": self.redis.url,
            "PERMAFROST_PORT": str(free_port()),
            "PERMAFROST_DEVICES": "cpu",
            "PERMAFROST_WEBHOOK_ALLOW": "127.0.0.0/8",
            "PERMAFROST_FETCH_ALLOW": "127.0.0.1/32",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(_offer_architectures(self.root / "site")),
            **QUICK,
        }
        given = {name.removeprefix("PERMAFROST_").lower(): value for name, value in self.environment.items()}
        self.settings = Settings(**given)  # type: ignore[arg-type]
        self.db = Database(self.postgres.url)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.settings.port}/v1/", timeout=60)
        self.migrate()
        self.past: list[Running] = []
        #: Whatever was ever started; a test that fails may have left some of it.
        self.started: list[Running] = []
        self.api = self.start_api()
        self.workers = [self.start_worker()]
        #: Jobs made since the books were balanced last.
        self.jobs: list[str] = []

    # ---- processes

    def migrate(self, cwd: Path = ROOT) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
        command = [sys.executable, "-m", "app.cli.main", "migrate"]
        subprocess.run(command, cwd=cwd, env=inherited | self.environment, check=True)

    def start_api(self, **variables: str) -> Running:
        running = Running(["app.cli.main", "serve", "--no-worker"], self.environment | variables)
        self.started.append(running)
        running.says("permafrost ready", seconds=PATIENCE)
        return running

    def start_worker(self, module: str = "worker", *, cwd: Path = ROOT, **variables: Any) -> Running:
        running = Running([module], self.environment | variables, cwd=cwd)
        self.started.append(running)
        running.says("permafrost worker ready", seconds=PATIENCE)
        return running

    def add_worker(self, module: str = "worker", **variables: Any) -> Running:
        self.workers.append(self.start_worker(module, **variables))
        return self.workers[-1]

    @property
    def worker(self) -> Running:
        return self.workers[0]

    def replace_worker(self, module: str = "worker", **variables: Any) -> Running:
        """The only worker from now on, and it has just started."""
        for each in self.workers:
            self.retire(each)
        self.workers = [self.start_worker(module, **variables)]
        return self.worker

    def retire(self, worker: Running) -> int:
        with contextlib.suppress(ProcessLookupError):
            worker.popen.send_signal(signal.SIGCONT)
        code = worker.stop(seconds=PATIENCE)
        self.past.append(worker)
        return code

    def repair(self) -> None:
        """Everything answers again, with one ordinary API and one ordinary worker."""
        self.redis.start()
        self.postgres.start()
        if self.api.popen.poll() is not None or self.api.environment != self.environment:
            self.api.stop()
            self.api = self.start_api()
        for each in self.workers:
            with contextlib.suppress(ProcessLookupError):
                each.popen.send_signal(signal.SIGCONT)
        ordinary = [each for each in self.workers if each.popen.poll() is None and _ordinary(each, self.environment)]
        for each in self.workers:
            if each not in ordinary[:1]:
                self.retire(each)
        for each in self.started:
            if each not in [*ordinary[:1], self.api] and each.popen.poll() is None:
                self.retire(each)
        self.workers = ordinary[:1] or [self.start_worker()]
        self.started = [*self.workers, self.api]

    def close(self) -> None:
        for each in self.started:
            with contextlib.suppress(ProcessLookupError):
                each.popen.send_signal(signal.SIGCONT)
            each.stop(seconds=PATIENCE)
        self.client.close()
        self.db.close()
        self.redis.close()
        self.postgres.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- over HTTP

    def get(self, path: str) -> Any:
        """Asks until there is an answer: the API or its database may be away for a while."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                response = self.client.get(path)
                if response.status_code < 500:
                    assert response.status_code == 200, response.text
                    return response.json()
            except httpx2.TransportError:
                response = None
            assert time.monotonic() < deadline, f"{path}: {response and response.text}\n{self.log()}"
            time.sleep(0.1)

    def post(self, path: str, body: Any = None, *, status: int = 200, **headers: str) -> Any:
        response = self.client.post(path, json=body, headers=headers)
        assert response.status_code == status, f"{response.text}\n{self.log()}"
        return response.json()

    def upload(self, content: bytes, name: str = "table.csv") -> str:
        response = self.client.post("files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def submit(self, body: dict[str, Any]) -> str:
        self.jobs.append(str(self.post("fine_tuning/jobs", body)["id"]))
        return self.jobs[-1]

    def job(self, job_id: str) -> Any:
        return self.get(f"fine_tuning/jobs/{job_id}")

    def ended(self, job_id: str) -> Any:
        return self.until(job_id, lambda job: job["status"] in ENDED)

    def until(self, job_id: str, condition: Callable[[Any], Any]) -> Any:
        return eventually(lambda: (job := self.job(job_id)) and condition(job) and job, says=lambda: self.story(job_id))

    # ---- behind the API

    def row(self, job_id: str) -> Job:
        def read() -> Job:
            with self.db.read() as session:
                return session.get_one(Job, job_id)

        return self.firmly(read)

    def events(self, job_id: str) -> list[Event]:
        def read() -> list[Event]:
            with self.db.read() as session:
                return list(session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq)))

        return self.firmly(read)

    def said(self, job_id: str, words: str) -> list[str]:
        return [event.message for event in self.events(job_id) if words in event.message]

    def run_sql(self, statement: str) -> None:
        with self.db.write() as session:
            session.execute(text(statement))

    def firmly(self, read: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return read()
            except SQLAlchemyError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def trainers(self, job_id: str) -> list[psutil.Process]:
        """Live processes whose working folder is this job's."""
        return [each for each, cwd in processes_in(self.settings.work) if f"/{job_id}/" in f"{cwd}/"]

    def story(self, job_id: str) -> str:
        events = "\n".join(f"{each.created_at} {each.message} {each.data or ''}" for each in self.events(job_id))
        return f"{self.row(job_id).status}\n{events}\n{self.log()}"

    def log(self) -> str:
        running = [self.api, *self.past[-2:], *self.workers]
        lines = (line for each in running for line in each.lines if '"event": "request"' not in line)
        return "\n".join(list(lines)[-60:])


def eventually(condition: Callable[[], Any], *, says: Callable[[], str] = lambda: "it did not come to pass") -> Any:
    """The first true value of the condition. Its limit is for a broken product, not for a slow machine."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, says()
        time.sleep(0.03)
    return value


def end(running: Running) -> None:
    """kill -9."""
    running.popen.kill()
    running.stop()


def processes_in(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            cwd = each.cwd()
            if cwd.startswith(f"{folder}/") and each.status() != psutil.STATUS_ZOMBIE:
                yield each, cwd


def _ordinary(worker: Running, environment: dict[str, str]) -> bool:
    return worker.command == ["worker"] and worker.environment == environment and worker.cwd == ROOT


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _offer_architectures(folder: Path) -> Path:
    """What a user's own package says of itself, so that the service finds `gated` as it finds any other."""
    about = _made(_made(folder) / "chaos-1.0.dist-info")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[permafrost.architectures]\ngated = tests.chaos.architectures:Gated\n")
    return folder
