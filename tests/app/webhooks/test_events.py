"""Events become deliveries in the transaction that causes them, for the endpoints that list their type."""

from pathlib import Path

import pytest
from sqlalchemy import update

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import LeaseLost, Outcome
from app.vault import Vault
from app.webhooks.tables import Endpoint
from tests.app.jobs.jobs import new_job
from tests.app.webhooks.endpoints import (
    CANCELLED,
    cancelled_job,
    deliveries_of,
    new_endpoint,
)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "webhooks.key")


def test_every_end_of_a_job_is_told_to_who_asked(db: Database, vault: Vault):
    """Succeeded, failed and cancelled reach the endpoint; paused and running only the one that named them."""
    ends, _ = new_endpoint(db, vault, "fine_tuning.job.succeeded", "fine_tuning.job.failed", CANCELLED)
    moves, _ = new_endpoint(db, vault, "fine_tuning.job.running", "fine_tuning.job.paused", "fine_tuning.job.queued")
    for status in ("succeeded", "failed"):
        lifecycle.submit(db, new_job())
        lease = lifecycle.claim(db, worker="w", seconds=60)
        assert lease is not None
        lifecycle.finish(db, lease, Outcome(status))
    cancelled_job(db)
    paused, _ = lifecycle.submit(db, new_job())
    lifecycle.pause(db, "default", paused.id)
    lifecycle.resume(db, "default", paused.id)
    told = {(row.endpoint_id, row.event_type.rpartition(".")[2]) for row in deliveries_of(db)}
    assert told == {(ends, status) for status in ("succeeded", "failed", "cancelled")} | {
        (moves, status) for status in ("running", "paused", "queued")
    }
    resumed = [row for row in deliveries_of(db) if row.event_type.endswith("queued")]
    assert [row.object_id for row in resumed] == [paused.id]


def test_nobody_else_is_told(db: Database, vault: Vault):
    """Not another project, not an endpoint of other types, not one that is switched off."""
    mine, _ = new_endpoint(db, vault)
    new_endpoint(db, vault, project="another")
    new_endpoint(db, vault, "fine_tuning.job.failed")
    off, _ = new_endpoint(db, vault)
    with db.write() as session:
        session.execute(update(Endpoint).where(Endpoint.id == off).values(disabled_at=now(session)))
    job_id = cancelled_job(db)
    assert [(row.endpoint_id, row.object_id) for row in deliveries_of(db)] == [(mine, job_id)]


def test_no_move_no_delivery(db: Database, vault: Vault):
    """A worker that lost its lease changes nothing, and so tells nothing; a repeated cancel tells nothing new."""
    new_endpoint(db, vault, "fine_tuning.job.succeeded", CANCELLED)
    job, _ = lifecycle.submit(db, new_job())
    lease = lifecycle.claim(db, worker="w", seconds=60)
    assert lease is not None
    lifecycle.cancel(db, "default", job.id)
    lifecycle.cancel(db, "default", job.id)
    with pytest.raises(LeaseLost):
        lifecycle.finish(db, lease, Outcome("succeeded"))
    assert [row.event_type for row in deliveries_of(db)] == [CANCELLED]


def test_one_event_two_endpoints(db: Database, vault: Vault):
    """Both get the same event, by id and body, in deliveries of their own."""
    new_endpoint(db, vault)
    new_endpoint(db, vault)
    cancelled_job(db)
    one, two = deliveries_of(db)
    assert one.id != two.id and one.endpoint_id != two.endpoint_id
    assert (one.event_id, one.payload) == (two.event_id, two.payload)
