"""Counts of jobs on several machines, on both databases."""

from app.db import Database
from app.jobs.queue import gang_rows, lifecycle
from app.ops.gangs import gauge_of_gangs
from tests.app.jobs.jobs import new_job
from tests.app.jobs.queue.test_gang_rows import alive, claimed, invited, submitted


def states(db: Database) -> dict[str, float]:
    with db.read() as session:
        gauge = gauge_of_gangs(session)
    return {sample.labels["state"]: sample.value for sample in gauge.samples}


def test_gangs_by_state(db: Database) -> None:
    """Waiting until all places are made, forming until all are taken, running until the attempt ends; no other job."""
    submitted(db)
    lifecycle.pause(db, "default", submitted(db))
    lifecycle.submit(db, new_job())
    assert states(db) == {"waiting": 1, "forming": 0, "running": 0}

    alive(db, "a", "b")
    lease = claimed(db, "a")
    assert lease is not None
    assert states(db) == {"waiting": 0, "forming": 1, "running": 0}
    assert gang_rows.join(db, invited(db, "b"), seconds=60)
    assert states(db) == {"waiting": 0, "forming": 0, "running": 1}
    lifecycle.release(db, lease)
    assert states(db) == {"waiting": 1, "forming": 0, "running": 0}
