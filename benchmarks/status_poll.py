"""What a poller waits for: 1,000 reads of one job's status over one kept connection, on the embedded default."""

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figure import Figure
from demo import affine
from demo.service import Service

READS = 1_000


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder, Service(Path(folder)) as service:
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
