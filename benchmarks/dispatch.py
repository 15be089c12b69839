"""From POST to the first training step, with a warm worker on the embedded default; beside a fresh interpreter."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figure import Figure
from demo import affine
from demo.service import Service, ServiceError

JOBS = 20
INTERPRETERS = 3
PATIENCE = 60


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder, Service(Path(folder)) as service:
        training_file = service.upload(affine.diabetes(), name="diabetes.jsonl")
        first_step(service, training_file)  # the first job also waits for the forkserver to import torch
        seconds = [first_step(service, training_file) for _ in range(JOBS)]
    fresh = statistics.median(fresh_interpreter() for _ in range(INTERPRETERS))
    beside = f"at most 1; a fresh interpreter that imports torch and transformers: {fresh:.2f}"
    yield Figure(f"POST to first training step, median of {JOBS}", statistics.median(seconds), "s", beside)
    yield Figure(f"POST to first training step, slowest of {JOBS}", max(seconds), "s")
    yield Figure("import torch and transformers, fresh interpreter", fresh, "s")


def first_step(service: Service, training_file: str) -> float:
    """Seconds until the trainer has reported step 1, seen in its own file; returns once the job has ended."""
    began = time.perf_counter()
    job_id = affine.submit(service, training_file, {"freeze": ["weight"]})
    reports = service.home / "work" / job_id / "a1" / "reports.jsonl"
    while not (reports.exists() and b'"type":"step"' in reports.read_bytes()):
        if time.perf_counter() - began > PATIENCE:
            raise ServiceError(
                f"{job_id} took no step within {PATIENCE} s: {service.get(f'/v1/fine_tuning/jobs/{job_id}')}"
            )
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    while service.get(f"/v1/fine_tuning/jobs/{job_id}")["status"] in {"queued", "running", "validating_files"}:
        time.sleep(0.05)
    return seconds


def fresh_interpreter() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, transformers.modeling_utils"], check=True)
    return time.perf_counter() - began
