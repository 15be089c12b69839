"""Memory of four jobs that train heads on one base at the same time, beside that of one; and fifty heads on disk.

The memory of a process is its proportional set size: a page that several processes map counts for each with its share.
Pages that a trainer only reads from the base's stored file are shared by all jobs on it. The figure is the median of
samples which were taken while every job of the group trained.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figure import Figure
from benchmarks.stand_in import folder
from demo import encoder
from demo.service import Service, ServiceError

JOBS = 4
SAMPLES = 8
PATIENCE = 300
HEADS = 50
#: Wide enough that the base, and not the interpreter, is most of a trainer's memory: 110 M parameters, 438 MB.
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
EPOCHS = 100_000  # the jobs are cancelled once they were measured


def figures() -> Iterable[Figure]:
    with folder() as home:
        encoder.place_model(home / "models")
        write_base(home / "models" / encoder.NAME, home / "models" / "base")
        environment = {"PERMAFROST_MODELS_DIR": str(home / "models"), "PERMAFROST_DEVICES": f"cpu:{JOBS}"}
        with Service(home, environment=environment) as service:
            yield from memory(service)
            yield from disk(service, home)


def write_base(small: Path, large: Path) -> None:
    """An encoder of `BASE`'s shape with random weights and the tokenizer of the small one."""
    from transformers import AutoConfig, AutoModel

    shutil.copytree(small, large)
    config = AutoConfig.from_pretrained(small)
    config.update(BASE)
    AutoModel.from_config(config).save_pretrained(large)


def memory(service: Service) -> Iterable[Figure]:
    training_file = service.upload(lines(), name="texts.jsonl")
    one = proportional_megabytes(service, training_file, jobs=1)
    several = proportional_megabytes(service, training_file, jobs=JOBS)
    yield Figure("memory of a head-only job on a base of 438 MB", one, "MB", "proportional set size")
    yield Figure(f"memory of {JOBS} such jobs at once", several, "MB", f"{JOBS * one:.0f} MB without sharing")
    yield Figure(f"memory of {JOBS} jobs over one", several / one, "x", "at most 1.35")


def proportional_megabytes(service: Service, training_file: str, *, jobs: int) -> float:
    """Of all trainers together while each of them trains."""
    ids = [submit(service, training_file, "base", seed=seed, n_epochs=EPOCHS) for seed in range(jobs)]
    try:
        for job_id in ids:
            wait(service, job_id, lambda job: ((job["progress"] or {}).get("step") or 0) >= 2)
        samples = []
        for _ in range(SAMPLES):
            samples.append(sum(process.memory_full_info().pss for process in trainers(service, ids)) / 1e6)
            time.sleep(0.5)
    finally:
        for job_id in ids:
            service.post(f"/v1/fine_tuning/jobs/{job_id}/cancel", {})
    for job_id in ids:
        wait(service, job_id, lambda job: job["status"] == "cancelled" and not trainers(service, [job["id"]]))
    return float(statistics.median(samples))


def disk(service: Service, home: Path) -> Iterable[Figure]:
    """What results that share their base take in the storage."""
    training_file = service.upload(lines(), name="texts.jsonl")
    ids = [submit(service, training_file, "base", seed=100, n_epochs=1)]
    wait(service, ids[0], lambda job: job["status"] == "succeeded")
    before = stored_bytes(home)
    ids = [submit(service, training_file, "base", seed=seed, n_epochs=1) for seed in range(HEADS - 1)]
    for job_id in ids:
        wait(service, job_id, lambda job: job["status"] == "succeeded")
    base = (home / "models" / "base" / "model.safetensors").stat().st_size
    total = base + (stored_bytes(home) - before) * HEADS / (HEADS - 1)
    yield Figure(f"{HEADS} heads and their base on disk, over the base", total / base, "x", "at most 1.05")


def stored_bytes(home: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (home / "blobs").rglob("*") if path.is_file())


def submit(service: Service, training_file: str, base: str, *, seed: int, n_epochs: int) -> str:
    model = {"type": "transformers", "path": base, "task": "text-classification", "num_labels": 2}
    hyperparameters = {"n_epochs": n_epochs, "batch_size": 8, "prefix_cache": False}
    job = service.post(
        "/v1/fine_tuning/jobs",
        {
            "model": model,
            "training_file": training_file,
            "seed": seed,
            "hyperparameters": hyperparameters,
            "freeze_policy": {"freeze": ["bert.**"]},
        },
    )
    return str(job["id"])


def lines() -> bytes:
    return "".join(f'{{"text": "sentence number {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(32)).encode()


def wait(service: Service, job_id: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(job := service.get(f"/v1/fine_tuning/jobs/{job_id}")):
        if job["status"] == "failed" or time.monotonic() > deadline:
            raise ServiceError(f"{job_id} is {job['status']}: {job['error']}")
        time.sleep(0.1)


def trainers(service: Service, ids: Iterable[str]) -> list[psutil.Process]:
    return [process for process in processes(service) if any(f"/{job_id}/" in f"{cwd(process)}/" for job_id in ids)]


def processes(service: Service) -> Iterator[psutil.Process]:
    yield from psutil.Process(service.pid).children(recursive=True)


def cwd(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
