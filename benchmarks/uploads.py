"""A large file in parts beside the same file in one request, and the memory of the API meanwhile.

`BENCH_MEGABYTES=2048` is the size that is meant; rounds alternate, and the median of their ratios counts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx2
import psutil

from app.cli.files import upload
from app.cli.uploads import upload_in_parts
from benchmarks.figure import Figure
from benchmarks.stand_in import folder
from demo.service import Service

MEGABYTES = int(os.environ.get("BENCH_MEGABYTES", "512"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


def figures() -> Iterable[Figure]:
    with folder() as place:
        file = place / "data.bin"
        _write(file)
        # One process, without a worker: its memory is the API's.
        with (
            Service(place / "home", options=["--no-worker"]) as service,
            httpx2.Client(base_url=f"{service.url}/v1/") as client,
        ):
            whole = lambda: upload(client, file, purpose="user_data")  # noqa: E731 - one of two ways
            parts = lambda: upload_in_parts(client, file, purpose="user_data")  # noqa: E731
            _rate(whole), _rate(parts)  # the first ones import what they need
            before = _memory(service.pid)
            rounds = [(_rate(whole), _rate(parts)) for _ in range(ROUNDS)]
            grown = _memory(service.pid) - before

    one, several = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(in_parts / at_once for at_once, in_parts in rounds)
    yield Figure(f"{MEGABYTES} MB in parts", several, "MB/s", f"{one:.0f} in one request")
    yield Figure("uploads in parts: speed over one request", ratio, "x", "at least 0.9")
    yield Figure(f"uploads: memory of the API after {2 * ROUNDS} more of them", grown, "MB", "flat")


def _write(file: Path) -> None:
    """Other bytes in each megabyte, so that no two parts are the same."""
    with file.open("wb") as out:
        for _ in range(MEGABYTES):
            out.write(os.urandom(1 << 20))


def _rate(send: Callable[[], object]) -> float:
    began = time.perf_counter()
    send()
    return MEGABYTES / (time.perf_counter() - began)


def _memory(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6
