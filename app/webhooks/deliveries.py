"""Webhook deliveries in the database: taken by compare-and-swap with a lease, and completed by the lease holder."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db import Database, new_id, now
from app.errors import NotFound
from app.webhooks.sender import PostResult
from app.webhooks.tables import Delivery, Endpoint

#: Seconds between the attempts, as Standard Webhooks has them: ten attempts within three days.
SCHEDULE: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Each is stretched by up to this, so that what failed together is not tried together.
JITTER: Final = 0.2
#: Longer than an attempt can take: who is silent for longer is dead.
LEASE: Final = timedelta(seconds=60)
GONE: Final = 410
THROTTLING: Final = frozenset({429, 502, 504})
_PAUSE: Final = (60.0, 3_600.0)
_KEPT: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery to be sent now, with the endpoint as it is. `attempt` is the fencing token."""

    delivery: Delivery
    endpoint: Endpoint
    at: datetime

    @property
    def attempt(self) -> int:
        return self.delivery.attempt


def take_due(db: Database) -> DueDelivery | None:
    """Takes the delivery that is due for longest; None when none is. To one endpoint goes one at a time."""
    with db.read() as session:  # costs no writer's turn while there is nothing to do
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


def book(db: Database, due: DueDelivery, answer: PostResult) -> bool:
    """Writes down what became of an attempt; False where somebody else has taken the delivery over."""
    with db.write() as session:
        at = now(session)
        row = session.scalar(select(Delivery).where(*_held(due)).with_for_update())
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
    wanted = (Delivery.id == delivery_id, Delivery.endpoint_id == endpoint.id)
    row = session.scalar(select(Delivery).where(*wanted))
    if row is None:
        raise NotFound(f"no delivery {delivery_id!r} to {endpoint.id}", param="webhook_delivery_id")
    return row


def replay(session: Session, old: Delivery) -> Delivery:
    """The same event once more, with the same id and body, due now."""
    at = now(session)
    row = Delivery(id=new_id("whdel"), endpoint_id=old.endpoint_id, created_at=at, due_at=at, status="pending")
    row.event_id, row.event_type, row.object_id, row.payload = old.event_id, old.event_type, old.object_id, old.payload
    row.attempt, row.log, row.replay_of = 0, [], old.replay_of or old.id
    session.add(row)
    return row


def forget_old(db: Database) -> None:
    """Finished deliveries are kept for a month."""
    with db.write() as session:
        old = (Delivery.status != "pending", Delivery.created_at < now(session) - _KEPT)
        session.execute(delete(Delivery).where(*old))


def _due(at: datetime) -> Select[Delivery]:
    other = aliased(Delivery)
    under_way = select(other.endpoint_id).where(other.status == "pending", other.lease_until > at)
    return (
        select(Delivery)
        .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .where(
            Delivery.status == "pending",
            Delivery.due_at <= at,
            _free(Delivery, at),
            Endpoint.disabled_at.is_(None),
            or_(Endpoint.not_before.is_(None), Endpoint.not_before <= at),
            Delivery.endpoint_id.not_in(under_way),
        )
        .order_by(Delivery.due_at, Delivery.id)
    )


def _free(table: type[Delivery], at: datetime) -> ColumnElement[bool]:
    return or_(table.lease_until.is_(None), table.lease_until <= at)


def _held(due: DueDelivery) -> Sequence[ColumnElement[bool]]:
    return (Delivery.id == due.delivery.id, Delivery.attempt == due.attempt, Delivery.status == "pending")


def _entry(due: DueDelivery, answer: PostResult) -> dict[str, Any]:
    return {
        "attempt": due.attempt,
        "created_at": int(due.at.timestamp()),
        "status_code": answer.status_code,
        "error": answer.error,
        "seconds": answer.seconds,
    }


def _disable(session: Session, endpoint_id: str, at: datetime) -> None:
    """410: the receiver is gone and wants nothing more. What was on its way is over, too."""
    reason = "the receiver answered 410 Gone"
    gone = update(Endpoint).where(Endpoint.id == endpoint_id, Endpoint.disabled_at.is_(None))
    session.execute(gone.values(disabled_at=at, disabled_reason=reason))
    rest = update(Delivery).where(Delivery.endpoint_id == endpoint_id, Delivery.status == "pending")
    session.execute(rest.values(status="failed", finished_at=at, lease_until=None))


def _pause(session: Session, endpoint_id: str, at: datetime, answer: PostResult) -> None:
    """The receiver, or what stands before it, has too much to do: nothing goes there for a while."""
    shortest, longest = _PAUSE
    seconds = min(longest, max(shortest, answer.retry_after or 0.0))
    paused = update(Endpoint).where(Endpoint.id == endpoint_id)
    session.execute(paused.values(not_before=at + timedelta(seconds=seconds)))
