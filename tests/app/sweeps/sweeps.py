"""Sweeps for tests: the body of one, and a worker's part in the life of its jobs without the training."""

from typing import Any

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost
from tests.app.conftest import AFFINE
from tests.app.jobs.jobs import claim, finish

RATES = [0.1, 0.01, 0.001]


def body(file: str, **more: Any) -> dict[str, Any]:
    """Three jobs with different learning rates, on a validation split."""
    job = {"model": AFFINE, "training_file": file, "seed": 7, "hyperparameters": {"validation_fraction": 0.25}}
    return {"job": job, "grid": {"hyperparameters": {"learning_rate": RATES}}, **more}


def evaluate(db: Database, lease: Lease, step: int, loss: float | None, *, total: int = 100) -> bool:
    """An evaluation of the job that runs; whether its sweep lets it go on."""
    news = AttemptUpdates(progress={"step": step, "total_steps": total}, metrics=[(step, "valid", {"loss": loss})])
    try:
        lifecycle.beat(db, lease, news)
    except LeaseLost:
        return False
    return True


def run(db: Database, loss: float) -> str:
    """The next job, from its claim to a verified end with this validation loss."""
    lease = claim(db)
    assert evaluate(db, lease, 100, loss)
    finish(db, lease)
    return lease.job_id
