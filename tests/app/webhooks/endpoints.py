"""Endpoints, jobs and moments as tests of deliveries want them."""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import select, update

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.vault import Vault
from app.webhooks import endpoints
from app.webhooks.schemas import EndpointCreate
from app.webhooks.tables import Delivery, Endpoint
from tests.app.jobs.jobs import new_job

CANCELLED: Final = "fine_tuning.job.cancelled"


def new_endpoint(
    db: Database, vault: Vault, *types: Any, url: str = "http://127.0.0.1:1/", project: str = "default"
) -> tuple[str, str]:
    """Id and secret of a new endpoint."""
    wanted = EndpointCreate(name="test", url=url, event_types=list(types) or [CANCELLED])
    with db.write() as session:
        row, secret = endpoints.create(session, vault, project, wanted, retried=False)
    return row.id, secret


def cancelled_job(db: Database, *, project: str = "default") -> str:
    """A job that has just been cancelled, which is the shortest way to an event."""
    job, _ = lifecycle.submit(db, new_job(project=project))
    lifecycle.cancel(db, project, job.id)
    return job.id


def deliveries_of(db: Database) -> list[Delivery]:
    with db.read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.created_at, Delivery.id)))


def endpoint(db: Database, endpoint_id: str) -> Endpoint:
    with db.read() as session:
        return session.get_one(Endpoint, endpoint_id)


def make_due(db: Database) -> None:
    """All the waiting is over: for the next attempt, and for throttled endpoints."""
    with db.write() as session:
        past = now(session) - timedelta(seconds=1)
        session.execute(update(Delivery).where(Delivery.status == "pending").values(due_at=past))
        session.execute(update(Endpoint).values(not_before=None))


def end_leases(db: Database) -> None:
    """Whoever was sending is silent for longer than it may be."""
    with db.write() as session:
        past = now(session) - timedelta(seconds=1)
        session.execute(update(Delivery).where(Delivery.lease_until.is_not(None)).values(lease_until=past))
