"""Gangs of two workers on this machine: how soon one forms, and how fast it trains beside one worker with two slots.

Forming: a job of one device keeps one worker busy, the other is idle, and a job on two machines waits. From the row's
time of the first job's end to the event that both workers have taken their places, by the database's clock. Speed: the
same job with its two ranks under two workers and under one, in turns; the ratio of steps a second within a round.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.db import Database
from app.jobs.queue.tables import Event, Job, Metric
from benchmarks.deployed import postgres
from benchmarks.figure import Figure
from demo.service import Service
from migrations.upgrade import upgrade

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
STEPS = int(os.environ.get("BENCH_STEPS", "400"))
PATIENCE = 900.0
FORMED = "Gang of 2 machines formed"
#: Steps that are left out at the start of a run.
WARM = 20
MODEL = {
    "type": "torch",
    "architecture": "mlp",
    "kwargs": {"in_features": 64, "out_features": 1, "hidden": [1024, 1024]},
}


def figures() -> Iterable[Figure]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="permafrost-bench-")))
        url = stack.enter_context(postgres(folder / "postgres")).replace("/postgres?", "/template1?")
        upgrade(url)
        environment = {
            "PERMAFROST_DATABASE_URL": url,
            "PERMAFROST_STORAGE_URL": f"file://{folder / 'blobs'}",
            "PERMAFROST_SIGNING_KEY": str(folder / "signing.key"),
            "PERMAFROST_AUTH": "off",
            "PERMAFROST_SWEEP_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
        }
        service = Service(folder / "api", environment=environment, options=["--no-worker"])
        bench = Bench(stack.enter_context(service), Database(url))
        stack.callback(bench.database.close)
        bench.table = bench.service.upload(_table(), name="table.csv")

        with _workers(folder, environment | {"PERMAFROST_DEVICES": "cpu"}):
            seconds = [bench.forming() for _ in range(ROUNDS)]
        yield Figure("gang of two: from the second worker's coming free, median", statistics.median(seconds), "s")
        yield Figure("gang of two: from the second worker's coming free, longest", max(seconds), "s", "at most 2")

        with _workers(folder, environment | {"PERMAFROST_DEVICES": "cpu:2"}):
            bench.speed(machines=2), bench.speed(machines=1)
            rounds = [(bench.speed(machines=2), bench.speed(machines=1)) for _ in range(ROUNDS)]
        yield Figure("two ranks under two workers", statistics.median(two for two, _ in rounds), "steps/s")
        yield Figure("two ranks under one worker", statistics.median(one for _, one in rounds), "steps/s")
        ratio = statistics.median(two / one for two, one in rounds)
        yield Figure("two workers beside one, median of rounds", ratio, "x", "at least 0.95")


@dataclass
class Bench:
    """An API, its database, and the table that every job trains on."""

    service: Service
    database: Database
    table: str = ""

    def forming(self) -> float:
        """Seconds from the end of the job that kept the second worker to the gang's forming."""
        first = self.submit(devices=1, machines=1, steps=STEPS)
        self.until(first, lambda job: job.status == "running")
        second = self.submit(devices=2, machines=2, steps=1)
        self.until(second, lambda job: job.status == "succeeded")
        ended = self.until(first, lambda job: job.finished_at).finished_at
        with self.database.read() as session:
            of_gang = select(Event.created_at).where(Event.job_id == second, Event.message == FORMED)
            formed = session.scalars(of_gang.order_by(Event.seq)).first()
        assert ended is not None and formed is not None
        return (formed - ended).total_seconds()

    def speed(self, *, machines: int) -> float:
        """Steps a second of a job with two ranks, by its own clock, once it is under way."""
        job_id = self.submit(devices=2, machines=machines, steps=STEPS)
        self.until(job_id, lambda job: job.status == "succeeded")
        with self.database.read() as session:
            points = select(Metric.step, Metric.values).where(Metric.job_id == job_id, Metric.split == "train")
            curve = [(step, values["seconds"]) for step, values in session.execute(points.order_by(Metric.step))]
        (start, began), (end, ended) = curve[WARM], curve[-1]
        return float(end - start) / float(ended - began)

    def submit(self, *, devices: int, machines: int, steps: int) -> str:
        body: dict[str, Any] = {
            "model": MODEL,
            "training_file": self.table,
            "seed": 1,
            "freeze_policy": {"freeze": ["0.weight"]},
            "hyperparameters": {"max_steps": steps, "batch_size": 64, "checkpoint_steps": 100_000},
            "resources": {"devices": devices, "machines": machines},
        }
        return str(self.service.post("/v1/fine_tuning/jobs", body)["id"])

    def until(self, job_id: str, condition: Callable[[Job], Any]) -> Job:
        deadline = time.monotonic() + PATIENCE
        while True:
            with self.database.read() as session:
                job = session.get_one(Job, job_id)
            if condition(job):
                return job
            if job.status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise RuntimeError(f"{job_id} is {job.status}: {job.error}")
            time.sleep(0.05)


@contextmanager
def _workers(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Two workers with folders and addresses of their own, until both have stopped as SIGTERM asks."""
    with ExitStack() as stack:
        for number in range(2):
            own = {
                "PERMAFROST_DATA_DIR": str(folder / f"worker{number}"),
                "PERMAFROST_GANG_ADDRESS": f"127.0.0.{number + 2}",
            }
            stack.enter_context(_running([sys.executable, "-m", "worker"], os.environ | environment | own))
        yield


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    quiet = subprocess.DEVNULL  # its log
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=quiet, text=True)
    try:
        assert process.stdout is not None
        while "permafrost worker ready" not in (line := process.stdout.readline()):
            if not line:
                raise RuntimeError("a worker did not start")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def _table() -> bytes:
    chance = random.Random(1)
    rows = [[chance.uniform(-1, 1) for _ in range(64)] for _ in range(512)]
    header = ",".join([*(f"x{column}" for column in range(64)), "y"])
    return "\n".join([header, *(",".join(f"{each:.4f}" for each in [*row, sum(row)]) for row in rows)]).encode()
