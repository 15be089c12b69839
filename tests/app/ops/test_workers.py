"""Gauges of workers and of what they train, from the rows of both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.db import Database, now
from app.jobs.queue import lifecycle, workers
from app.jobs.queue.attempt import AttemptUpdates
from app.jobs.queue.tables import Job, Worker
from app.ops.workers import gauges_of_workers
from tests.app.jobs.jobs import claim, new_job


def gauges(db: Database) -> dict[str, Any]:
    """Values by name; those with labels as a dict of them."""
    with db.read() as session:
        families = list(gauges_of_workers(session))
    found: dict[str, Any] = {}
    for family in families:
        name = family.name.removeprefix("permafrost_")
        labelled = {tuple(each.labels.values()): each.value for each in family.samples if each.labels}
        found[name] = labelled or next((each.value for each in family.samples), {})
    return found


def test_workers_that_are_alive_and_the_memory_of_their_devices(db: Database) -> None:
    """A worker that was not heard of for a minute is not counted."""
    memory = {"GPU-1": (10, 80), "GPU-2": (70, 80)}
    workers.register(db, "large", devices=2, kind="cuda", products={"H100": 2}, memory=memory)
    workers.register(db, "mig", devices=1, kind="cuda", products={"H100 MIG 1g": 7})
    workers.register(db, "gone", devices=4, kind="cuda", memory={"GPU-3": (1, 2)})
    with db.write() as session:
        past = now(session) - workers.PRESENT - timedelta(seconds=1)
        session.execute(update(Worker).where(Worker.id == "gone").values(seen_at=past))
    found = gauges(db)
    assert (found["workers"], found["devices"], found["devices_busy"]) == (2, 9, 0)
    assert found["device_memory_used_bytes"] == {("large", "GPU-1"): 10, ("large", "GPU-2"): 70}
    assert found["device_memory_bytes"] == {("large", "GPU-1"): 80, ("large", "GPU-2"): 80}


def test_speeds_are_those_of_running_jobs(db: Database) -> None:
    """Added up; of the witness the largest part; a job that waits again or has no figures yet adds nothing."""
    cache = {"in_use": True, "reused": 40}
    figures: list[dict[str, Any]] = [
        {"steps_per_second": 2.0, "tokens_per_second": 100.0, "witness_share": 0.01, "prefix_cache": cache},
        {"steps_per_second": 0.5, "examples_per_second": 8.0, "witness_share": 0.03, "prefix_cache": {"in_use": False}},
        {"steps_per_second": 99.0},
    ]
    leases = []
    for each in figures:
        lifecycle.submit(db, new_job(devices=1))
        leases.append(claim(db))
        lifecycle.beat(db, leases[-1], AttemptUpdates(progress=each))
    lifecycle.submit(db, new_job())
    claim(db)
    lifecycle.release(db, leases[2])
    found = gauges(db)
    assert (found["steps_per_second"], found["tokens_per_second"], found["examples_per_second"]) == (2.5, 100.0, 8.0)
    assert (found["witness_share"], found["devices_busy"]) == (0.03, 3)
    assert (found["prefix_cache_jobs"], found["prefix_cache_reused"]) == (1, 40)


def test_without_workers_and_jobs_all_is_zero(db: Database) -> None:
    """A rate of nothing is a number as well, so that a panel shows a line."""
    found = gauges(db)
    assert {value for value in found.values() if value != {}} == {0}


@pytest.mark.parametrize("crash", [True, False], ids=["a trainer", "a worker"])
def test_takeovers_are_counted_beside_crashes(db: Database, crash: bool) -> None:
    """A trainer that died is none: its worker has the job still."""
    job, _ = lifecycle.submit(db, new_job())
    lease = claim(db)
    if crash:
        lifecycle.crash(db, lease, "killed", limit=3)
    else:
        with db.write() as session:
            session.execute(update(Job).values(lease_until=now(session) - timedelta(seconds=1)))
        lifecycle.recover(db, limit=3)
        lifecycle.recover(db, limit=3)
    with db.read() as session:
        row = session.get_one(Job, job.id)
        assert (row.crashes, row.takeovers) == (1, 0 if crash else 1)
