"""A second job on the same base and data with another learning rate, from POST to result, beside the HF Trainer.

MiniLM with a new head, 2,000 short texts, 10 epochs, default settings. `BENCHMARK_SCALE=4` takes a quarter of the
texts. The Trainer's steps are measured without loading, saving or evidence, and counted for the whole run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.loops import HF, hf_trainer
from benchmarks.work import MINILM, Case, material, minilm_base, texts
from demo.service import Service

TEXTS, EPOCHS, BATCH = 2_000, 10, 16
FROZEN = {"freeze": ["bert.**"]}
PEER_STEPS, ROUNDS = 20, 3


def figures() -> Iterable[Figure]:
    rows = max(4 * BATCH, TEXTS // max(1, int(os.environ.get("BENCHMARK_SCALE", "1"))))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        (models / "minilm").mkdir(parents=True)
        minilm_base(models / "minilm")
        with Service(Path(folder) / "home", environment={"PERMAFROST_MODELS_DIR": str(models)}) as service:
            ended(service, posted(service, texts(BATCH), rate=1e-3))  # the forkserver imports torch
            file = service.upload(lines(texts(rows)), name="texts.jsonl")
            first, reused_first = whole(service, file, rate=1e-3)
            trainer, seconds = [], []
            for number in range(ROUNDS):
                trainer.append(steps_per_second(rows))
                took, reused = whole(service, file, rate=2e-3 + number * 1e-3)
                assert (reused_first, reused) == (0, rows), (reused_first, reused)
                seconds.append(took)
    hf = EPOCHS * rows / BATCH / max(trainer)
    name = f"MiniLM, head only, {rows:,} texts, {EPOCHS} epochs"
    yield Figure(f"{name}: first job, POST to result", first, "s", f"{hf:.3g} for the steps of {HF}")
    yield Figure(f"{name}: first job's speed over {HF}", hf / first, "x", "1")
    yield Figure(f"{name}: second job, POST to result", min(seconds), "s", f"{hf:.3g} for the steps of {HF}")
    yield Figure(f"{name}: second job's speed over {HF}", hf / min(seconds), "x", "120, the aim at scale 1")


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def posted(service: Service, rows: list[dict[str, Any]], *, rate: float) -> str:
    return submitted(service, service.upload(lines(rows), name="few.jsonl"), rate=rate)


def submitted(service: Service, file: str, *, rate: float) -> str:
    job = {
        "model": {**MINILM, "task": "text-classification"},
        "training_file": file,
        "seed": 0,
        "freeze_policy": FROZEN,
        "hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH, "learning_rate": rate},
    }
    return str(service.post("/v1/fine_tuning/jobs", job)["id"])


def whole(service: Service, file: str, *, rate: float) -> tuple[float, int]:
    """Seconds of a job from POST to its evidence, and the examples whose results were there."""
    began = time.perf_counter()
    job = ended(service, submitted(service, file, rate=rate))
    return time.perf_counter() - began, job["progress"]["prefix_cache"]["reused"]


def ended(service: Service, job_id: str) -> Any:
    while (job := service.get(f"/v1/fine_tuning/jobs/{job_id}"))["status"] not in ("succeeded", "failed"):
        time.sleep(0.02)
    assert job["evidence"]["verdict"] == "verified", job["error"]
    return job


def steps_per_second(rows: int) -> float:
    """Of the HF Trainer, once it runs."""
    case = Case("", "text-classification", MINILM, FROZEN, lambda: texts(rows), minilm_base, BATCH, PEER_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        go = hf_trainer(material(case, Path(folder)), case, Path(folder))
        return max(go(), go())
