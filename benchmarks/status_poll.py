"""What a poller waits for: one connection on the embedded default, then 200 on PostgreSQL beside two peers.

The peers are the least that reads the same row (`benchmarks.bare_api`) and an MLflow server's `runs/get`. Rounds
interleave, each server is one process, and every figure is a median over the rounds.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from benchmarks.deployed import place, postgres, running
from benchmarks.figure import Figure
from benchmarks.pollers import Load, poll
from demo import affine
from demo.service import Service, free_port
from tools import peers

READS = 1_000
POLLERS = 200
SECONDS = 5.0
ROUNDS = 3
START_SECONDS = 120


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder:
        yield from embedded(Path(folder) / "embedded")
        yield from deployed(Path(folder))


def embedded(folder: Path) -> Iterable[Figure]:
    with Service(folder) as service:
        training_file = service.upload(affine.diabetes(), name="diabetes.jsonl")
        path = f"/v1/fine_tuning/jobs/{affine.submit(service, training_file, {'freeze': ['weight']})}"
        while service.get(path)["status"] != "succeeded":
            time.sleep(0.05)
        milliseconds = [read(service, path) for _ in range(READS)]
    yield Figure("GET of a job, median", statistics.median(milliseconds), "ms")
    yield Figure("GET of a job, p99", statistics.quantiles(milliseconds, n=100)[98], "ms")


def read(service: Service, path: str) -> float:
    began = time.perf_counter()
    service.read(path)
    return (time.perf_counter() - began) * 1e3


def deployed(folder: Path) -> Iterable[Figure]:
    with postgres(folder / "postgres") as server, place(server, "permafrost", folder) as ours:
        job_id, _ = running(ours)
        job = f"{ours.service.url}/v1/fine_tuning/jobs/{job_id}"
        with bare_api(ours.url) as bare, mlflow(folder) as tracking:
            asked = {
                "ours": lambda: poll(job, connections=POLLERS, seconds=SECONDS, headers=ours.headers),
                "bare": lambda: poll(f"{bare}/jobs/{job_id}", connections=POLLERS, seconds=SECONDS),
                "mlflow": lambda: poll(tracking, connections=POLLERS, seconds=SECONDS),
            }
            yield from compared(asked)


def compared(asked: dict[str, Callable[[], Load]]) -> Iterable[Figure]:
    for ask in asked.values():
        ask()  # warm pools and caches
    rounds = [{name: ask() for name, ask in asked.items()} for _ in range(ROUNDS)]
    load = {name: [each[name] for each in rounds] for name in asked}
    for name, title in (("ours", "polls"), ("bare", "polls of a bare route"), ("mlflow", "polls of MLflow")):
        rate = statistics.median(each.per_second for each in load[name])
        yield Figure(f"{title}, {POLLERS} pollers, PostgreSQL", rate, "1/s")
        yield Figure(f"{title}, p99", statistics.median(each.p99_ms for each in load[name]), "ms")
    for name, title, bound in (("bare", "a bare FastAPI + SQLAlchemy route", 0.7), ("mlflow", "MLflow's runs/get", 5)):
        ratio = statistics.median(each["ours"].per_second / each[name].per_second for each in rounds)
        yield Figure(f"polls per second over {title}", ratio, "x", f"at least {bound}")


@contextmanager
def bare_api(database: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_api", database, str(port)]
    with process(command, url := f"http://127.0.0.1:{port}", ready="/docs"):
        yield url


@contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """URL that reads one run of an MLflow server on a database of its own."""
    port = free_port()
    tool = peers.command("mlflow")
    place = folder / "mlflow"
    place.mkdir()
    store = f"sqlite:///{place / 'mlflow.db'}"
    options = ["--backend-store-uri", store, "--port", str(port), "--workers", "1", "--host", "127.0.0.1"]
    with process([str(tool), "server", *options], url := f"http://127.0.0.1:{port}", ready="/health", folder=place):
        api = f"{url}/api/2.0/mlflow"
        made = httpx2.post(f"{api}/runs/create", json={"experiment_id": "0", "start_time": 0}, timeout=60)
        run_id = made.raise_for_status().json()["run"]["info"]["run_id"]
        yield f"{api}/runs/get?run_id={run_id}"


@contextmanager
def process(command: list[str], url: str, *, ready: str, folder: Path | None = None) -> Iterator[None]:
    """A server while the block lasts, from its first good answer on."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder) as server:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(url + ready):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[:3]} does not answer")
                time.sleep(0.1)
            yield
        finally:
            server.terminate()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
