"""Webhook deliveries in the database: taken by compare-and-swap with a lease, and completed by the lease holder."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db import Database, new_id, now
from app.errors import NotFound
from app.jsontypes import JsonDict
from app.webhooks.sender import PostResult
from app.webhooks.tables import Delivery, Endpoint

#: Seconds between attempts, as Standard Webhooks recommends: ten attempts within three days.
SCHEDULE: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Each pause is longer by up to this share, so that deliveries that failed together are not retried together.
JITTER: Final = 0.2
#: Longer than an attempt can take, so that a sender whose lease ran out is dead.
LEASE: Final = timedelta(seconds=60)
GONE: Final = 410
THROTTLING: Final = frozenset({429, 502, 504})
#: Shortest and longest pause after an answer in THROTTLING, in seconds.
_PAUSE: Final = (60.0, 3_600.0)
_KEPT: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery to send now, with its endpoint. `attempt` is the fencing token."""

    delivery: Delivery
    endpoint: Endpoint
    at: datetime

    @property
    def attempt(self) -> int:
        return self.delivery.attempt


def take_due(db: Database) -> DueDelivery | None:
    """Take the delivery that has been due for longest, with a lease; None when no delivery is due.

    An endpoint gets one delivery at a time.
    """
    with db.read() as session:  # a read does not block writers while no delivery is due
        if session.scalar(_due(now(session)).limit(1)) is None:
            return None
    with db.write() as session:
        at = now(session)
        row = session.scalar(_due(at).limit(1).with_for_update(skip_locked=True, of=Delivery))
        if row is None:
            return None
        guard = (Delivery.id == row.id, Delivery.attempt == row.attempt, Delivery.status == "pending")
        values = {"attempt": row.attempt + 1, "lease_until": at + LEASE}
        taken = update(Delivery).where(*guard, _free(Delivery, at)).values(values)
        if session.execute(taken.returning(Delivery.id)).scalar_one_or_none() is None:
            return None
        session.refresh(row)
        return DueDelivery(row, session.get_one(Endpoint, row.endpoint_id), at)


def complete(db: Database, due: DueDelivery, answer: PostResult) -> bool:
    """Store the result of an attempt. False when another sender has taken the delivery over."""
    with db.write() as session:
        at = now(session)
        row = session.scalar(select(Delivery).where(*_taken_by(due)).with_for_update())
        if row is None:
            return False
        row.log = [*row.log, _entry(due, answer)]
        row.lease_until = None
        if answer.ok:
            row.status, row.finished_at = "delivered", at
        elif answer.status_code == GONE:
            _disable(session, due.endpoint.id, at)
        elif due.attempt > len(SCHEDULE):
            row.status, row.finished_at = "failed", at
        else:
            row.due_at = at + timedelta(seconds=SCHEDULE[due.attempt - 1] * random.uniform(1, 1 + JITTER))
        if answer.status_code in THROTTLING:
            _pause(session, due.endpoint.id, at, answer)
        return True


def find(session: Session, endpoint: Endpoint, delivery_id: str) -> Delivery:
    """The delivery with this id to this endpoint. Raises NotFound."""
    row = session.scalar(select(Delivery).where(Delivery.id == delivery_id, Delivery.endpoint_id == endpoint.id))
    if row is None:
        raise NotFound(f"no delivery {delivery_id!r} to {endpoint.id}", param="webhook_delivery_id")
    return row


def replay(session: Session, old: Delivery) -> Delivery:
    """A new delivery of the same event, with the same id and body, due now."""
    at = now(session)
    row = Delivery(id=new_id("whdel"), endpoint_id=old.endpoint_id, created_at=at, due_at=at, status="pending")
    row.event_id, row.event_type, row.object_id, row.payload = old.event_id, old.event_type, old.object_id, old.payload
    row.attempt, row.log, row.replay_of = 0, [], old.replay_of or old.id
    session.add(row)
    return row


def forget_old(db: Database) -> None:
    """Delete finished deliveries that are older than 30 days."""
    with db.write() as session:
        old = (Delivery.status != "pending", Delivery.created_at < now(session) - _KEPT)
        session.execute(delete(Delivery).where(*old))


def _due(at: datetime) -> Select[Delivery]:
    other = aliased(Delivery)
    busy = select(other.endpoint_id).where(other.status == "pending", other.lease_until > at)
    return (
        select(Delivery)
        .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .where(
            Delivery.status == "pending",
            Delivery.due_at <= at,
            _free(Delivery, at),
            Endpoint.disabled_at.is_(None),
            or_(Endpoint.not_before.is_(None), Endpoint.not_before <= at),
            Delivery.endpoint_id.not_in(busy),
        )
        .order_by(Delivery.due_at, Delivery.id)
    )


def _free(table: type[Delivery], at: datetime) -> ColumnElement[bool]:
    return or_(table.lease_until.is_(None), table.lease_until <= at)


def _taken_by(due: DueDelivery) -> Sequence[ColumnElement[bool]]:
    return (Delivery.id == due.delivery.id, Delivery.attempt == due.attempt, Delivery.status == "pending")


def _entry(due: DueDelivery, answer: PostResult) -> JsonDict:
    return {
        "attempt": due.attempt,
        "created_at": int(due.at.timestamp()),
        "status_code": answer.status_code,
        "error": answer.error,
        "seconds": answer.seconds,
    }


def _disable(session: Session, endpoint_id: str, at: datetime) -> None:
    """Switch an endpoint off after 410 Gone, and end its pending deliveries."""
    reason = "the receiver answered 410 Gone"
    gone = update(Endpoint).where(Endpoint.id == endpoint_id, Endpoint.disabled_at.is_(None))
    session.execute(gone.values(disabled_at=at, disabled_reason=reason))
    rest = update(Delivery).where(Delivery.endpoint_id == endpoint_id, Delivery.status == "pending")
    session.execute(rest.values(status="failed", finished_at=at, lease_until=None))


def _pause(session: Session, endpoint_id: str, at: datetime, answer: PostResult) -> None:
    """Pause an endpoint whose receiver, or a proxy before it, is overloaded."""
    shortest, longest = _PAUSE
    seconds = min(longest, max(shortest, answer.retry_after or 0.0))
    paused = update(Endpoint).where(Endpoint.id == endpoint_id)
    session.execute(paused.values(not_before=at + timedelta(seconds=seconds)))
