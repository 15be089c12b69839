"""What a poller waits for: one connection on the embedded default, then 200 on PostgreSQL beside two peers.

The peers are the least that reads the same row (`benchmarks.bare_api`) and an MLflow server's `runs/get`. All three are
asked in every round, forwards and backwards in turn, and a ratio is of one round: what else a machine does meanwhile
meets all of them. Every figure is a median over the rounds. What a server computes for a poll, `/proc` tells.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx2
import psutil

from benchmarks.deployed import place, postgres, running
from benchmarks.figure import Figure
from benchmarks.pollers import Load, poll
from demo import affine
from demo.service import Service, free_port
from tools import peers

READS = 1_000
POLLERS = 200
SECONDS = 3.0
ROUNDS = 7
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, what asks it, and what it is called; `bound` is how many times as fast ours has to be."""

    title: str
    pid: int
    ask: Callable[[], Load]
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    load: Load
    cpu_ms: float  # of a poll, in the server


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
    yield Figure("GET of a job, median", median(milliseconds), "ms")
    yield Figure("GET of a job, p99", statistics.quantiles(milliseconds, n=100)[98], "ms")


def read(service: Service, path: str) -> float:
    began = time.perf_counter()
    service.read(path)
    return (time.perf_counter() - began) * 1e3


def deployed(folder: Path) -> Iterable[Figure]:
    with postgres(folder / "postgres") as server, place(server, "permafrost", folder) as ours:
        job_id, _ = running(ours)
        job = f"{ours.service.url}/v1/fine_tuning/jobs/{job_id}"
        with bare_api(ours.url) as (bare_pid, bare), mlflow(folder) as (mlflow_pid, tracking):
            us = Peer("polls", ours.service.pid, asking(job, ours.headers))
            bare_peer = Peer("a bare FastAPI + SQLAlchemy route", bare_pid, asking(f"{bare}/jobs/{job_id}"), 0.7)
            mlflow_peer = Peer("MLflow's runs/get", mlflow_pid, asking(tracking), 5)
            yield from compared(us, [bare_peer, mlflow_peer])


def asking(url: str, headers: Mapping[str, str] | None = None) -> Callable[[], Load]:
    return lambda: poll(url, connections=POLLERS, seconds=SECONDS, headers=headers)


def compared(us: Peer, others: Sequence[Peer]) -> Iterable[Figure]:
    everyone = [us, *others]
    for each in everyone:
        each.ask()  # warm pools and caches
    rounds = [{each.title: measured(each) for each in (everyone, everyone[::-1])[n % 2]} for n in range(ROUNDS)]
    for each in everyone:
        title = each.title if each is us else f"polls of {each.title}"
        mine = [found[each.title] for found in rounds]
        yield Figure(f"{title}, {POLLERS} pollers, PostgreSQL", median(one.load.per_second for one in mine), "1/s")
        yield Figure(f"{title}, p99", median(one.load.p99_ms for one in mine), "ms")
        yield Figure(f"{title}, CPU of the server for one", median(one.cpu_ms for one in mine), "ms")
    for each in others:
        ratios = [found[us.title].load.per_second / found[each.title].load.per_second for found in rounds]
        bound = f"at least {each.bound:g}"
        yield Figure(f"polls per second over {each.title}", median(ratios), "x", bound)
        yield Figure(f"polls per second over {each.title}, worst of {ROUNDS} rounds", min(ratios), "x", bound)


def measured(peer: Peer) -> Round:
    before = cpu_seconds(peer.pid)
    load = peer.ask()
    return Round(load, (cpu_seconds(peer.pid) - before) / load.answers * 1e3)


def cpu_seconds(pid: int) -> float:
    """What a process and the processes below it have computed so far."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


@contextmanager
def bare_api(database: str) -> Iterator[tuple[int, str]]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_api", database, str(port)]
    with process(command, url := f"http://127.0.0.1:{port}", ready="/docs") as pid:
        yield pid, url


@contextmanager
def mlflow(folder: Path) -> Iterator[tuple[int, str]]:
    """An MLflow server on a database of its own, and the URL that reads one run of it."""
    port = free_port()
    tool = peers.command("mlflow")
    place = folder / "mlflow"
    place.mkdir()
    store = f"sqlite:///{place / 'mlflow.db'}"
    options = ["--backend-store-uri", store, "--port", str(port), "--workers", "1", "--host", "127.0.0.1"]
    with process(
        [str(tool), "server", *options], url := f"http://127.0.0.1:{port}", ready="/health", folder=place
    ) as pid:
        api = f"{url}/api/2.0/mlflow"
        made = httpx2.post(f"{api}/runs/create", json={"experiment_id": "0", "start_time": 0}, timeout=60)
        run_id = made.raise_for_status().json()["run"]["info"]["run_id"]
        yield pid, f"{api}/runs/get?run_id={run_id}"


@contextmanager
def process(command: list[str], url: str, *, ready: str, folder: Path | None = None) -> Iterator[int]:
    """A server's id while the block lasts, from its first good answer on."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder) as server:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(url + ready):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[:3]} does not answer")
                time.sleep(0.1)
            yield server.pid
        finally:
            server.terminate()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
