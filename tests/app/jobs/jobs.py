"""A job row as a test wants it."""

from typing import Any

from app.db import new_id
from app.jobs.queue.tables import Job


def new_job(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "id": new_id("ftjob"),
        "project": "default",
        "status": "queued",
        "model": "torch:affine",
        "model_spec": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}},
        "task": "tabular-regression",
        "training_file": "file-1",
        "data": {},
        "seed": 0,
        "hyperparameters": {},
        "freeze_policy": {"default": "train", "rules": []},
        "evidence_options": {},
    }
    return Job(**(values | fields))
