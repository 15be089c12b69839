"""Reach: objects of a store beside the store's own client, and what a tracking server that hangs costs jobs.

The store is moto's S3 server on loopback, for both sides. The server that hangs takes connections and never answers.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2

from app.files.references import StoreObject
from benchmarks.figure import Figure
from benchmarks.jobs_per_minute import COMMAND, _wait
from benchmarks.stand_in import folder, in_turn
from demo import affine
from demo.service import Service
from tests.servers import s3_server
from worker.supervisor.sources import object_store
from worker.supervisor.sources.arriving import Arriving

MEGABYTES: Final = 128
RUNS: Final = 5
JOBS = int(os.environ.get("BENCH_JOBS", "15"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
BUCKET: Final = "benchmark"
MODEL: Final = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}}


def figures() -> Iterable[Figure]:
    with folder() as place:
        yield from download(place)
        yield from hanging(place)


def download(place: Path) -> Iterable[Figure]:
    """One object: ranges into a file with its version noted, beside s3fs' own `get_file`."""
    with s3_server() as url:
        keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1", "endpoint_url": url}
        httpx2.put(f"{url}/{BUCKET}").raise_for_status()
        client = object_store.store(keys)
        client.pipe_file(f"{BUCKET}/object", os.urandom(1 << 20) * MEGABYTES)

        def ours() -> None:
            with Arriving(place / "ours", 1 << 40) as arriving:
                arriving.forget()
                object_store.fetch(StoreObject(BUCKET, "object"), arriving, keys=keys, name="")

        def theirs() -> None:
            client.get_file(f"{BUCKET}/object", str(place / "theirs"))

        seconds = in_turn({"ours": ours, "theirs": theirs}, RUNS)
    size = MEGABYTES * (1 << 20) / 1e6
    rates = {name: size / statistics.median(took) for name, took in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    yield Figure(f"object of {MEGABYTES} MB from a store", rates["ours"], "MB/s", f"{rates['theirs']:.0f} by s3fs")
    yield Figure("download, of the store's own client", ratio, "x", "at least 0.8")


def hanging(place: Path) -> Iterable[Figure]:
    """The same jobs with a destination that hangs and without one, in turn, on one service."""
    environment = {
        "PERMAFROST_DEVICES": "cpu:1",
        "PERMAFROST_FETCH_ALLOW": "127.0.0.0/8",
        "PYTHONPATH": str(Path.cwd()),
    }
    command = [sys.executable, "-c", COMMAND, "serve"]
    with silent_server() as port, Service(place / "home", environment=environment, command=command) as service:
        file = service.upload(affine.diabetes(), name="diabetes.jsonl")
        destination = f"mlflow+http://127.0.0.1:{port}/benchmark"
        plain: dict[str, Any] = {}
        tracked = {"destinations": [destination]}
        _run(service, file, plain)
        seconds = in_turn(
            {"plain": lambda: _run(service, file, plain), "tracked": lambda: _run(service, file, tracked)}, ROUNDS
        )
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds["tracked"], strict=True))
    least = min(a / b for a, b in zip(seconds["plain"], seconds["tracked"], strict=True))
    rate = 60 * JOBS / statistics.median(seconds["tracked"])
    yield Figure("jobs per minute, tracked by a server that hangs", rate, "1/min")
    yield Figure("speed beside jobs that are not tracked", ratio, "x", f"at least 0.99; {least:.3f} in the worst round")


def _run(service: Service, file: str, options: dict[str, Any]) -> None:
    body = {"model": MODEL, "training_file": file, "freeze_policy": {"freeze": ["weight"]}, **options}
    _wait(service, [service.post("/v1/fine_tuning/jobs", body)["id"] for _ in range(JOBS)])


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections, as its system does for it, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield server.getsockname()[1]
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
