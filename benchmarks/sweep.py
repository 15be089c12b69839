"""A sweep of sixteen heads on MiniLM, from POST to the last result, beside as many runs of the HF Trainer.

`BENCHMARK_SCALE=4` measures a quarter of the heads and of the texts. One run of the Trainer is measured, from loading
to its last step, and counted once for each head: it repeats the same work.
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

HEADS, TEXTS, EPOCHS, BATCH = 16, 2_000, 10, 16
FROZEN = {"freeze": ["bert.**"]}


def figures() -> Iterable[Figure]:
    scale = max(1, int(os.environ.get("BENCHMARK_SCALE", "1")))
    heads, rows = max(2, HEADS // scale), max(4 * BATCH, TEXTS // scale)
    work = f"{heads} heads on MiniLM, {rows:,} texts, {EPOCHS} epochs"
    seconds = swept(heads, rows)
    trainer = heads * trained_by_hf(rows)
    yield Figure(f"{work}: POST to result", seconds, "s", f"{trainer:.3g} for as many runs of {HF}")
    yield Figure(f"{work}: seconds a head", seconds / heads, "s", f"{trainer / heads:.3g} by {HF}")
    yield Figure(f"{work}: speed over {HF}", trainer / seconds, "x", "150, the aim at scale 1")


def swept(heads: int, rows: int) -> float:
    """Seconds of a whole sweep on a service with default settings; every job has to end verified."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        (models / "minilm").mkdir(parents=True)
        minilm_base(models / "minilm")
        with Service(Path(folder) / "home", environment={"PERMAFROST_MODELS_DIR": str(models)}) as service:
            file = service.upload("\n".join(map(json.dumps, texts(rows))).encode(), name="texts.jsonl")
            began = time.perf_counter()
            sweep = service.post("/v1/fine_tuning/sweeps", request(file, heads))
            ended = _ended(service, sweep["id"])
            seconds = time.perf_counter() - began
    verdicts = [row["verdict"] for row in ended["ranking"]]
    assert verdicts == ["verified"] * heads, (ended["status"], verdicts)
    return seconds


def request(file: str, heads: int) -> dict[str, Any]:
    """Heads that differ in their learning rate."""
    job = {
        "model": {**MINILM, "task": "text-classification"},
        "training_file": file,
        "seed": 0,
        "freeze_policy": FROZEN,
        "hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH},
    }
    rates = [1e-4 * 1.3**number for number in range(heads)]
    return {"job": job, "grid": {"hyperparameters": {"learning_rate": rates}}}


def trained_by_hf(rows: int) -> float:
    """Seconds of one run of the HF Trainer, from loading model and data to its last step."""
    steps = EPOCHS * rows // BATCH
    case = Case(
        "MiniLM, head only", "text-classification", MINILM, FROZEN, lambda: texts(rows), minilm_base, BATCH, steps
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        hf_trainer(material(case, Path(folder)), case, Path(folder))()
        return time.perf_counter() - began


def _ended(service: Service, sweep_id: str) -> Any:
    while (sweep := service.get(f"/v1/fine_tuning/sweeps/{sweep_id}"))["status"] == "running":
        time.sleep(0.1)
    return sweep
