"""Webhook events. Deliveries of an event are stored in the transaction that causes it."""

import json
from typing import Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.webhooks.tables import Delivery, Endpoint

#: The first three are OpenAI's. An endpoint gets the types that it lists.
EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "fine_tuning.job.running",
    "fine_tuning.job.paused",
    "fine_tuning.job.queued",
]
EVENT_TYPES: Final[dict[EventType, str]] = {
    "fine_tuning.job.succeeded": "A job ended with a result and its evidence.",
    "fine_tuning.job.failed": "A job ended with an error.",
    "fine_tuning.job.cancelled": "A job was cancelled.",
    "fine_tuning.job.running": "A worker has started an attempt of a job.",
    "fine_tuning.job.paused": "A job is paused, and its state is saved.",
    "fine_tuning.job.queued": "A job is back in the queue: it was resumed, or its worker stopped.",
}


def announce(session: Session, event_type: str, *, project: str, object_id: str) -> None:
    """Add one delivery, due now, for every endpoint of the project that lists the event's type."""
    able = (Endpoint.project == project, Endpoint.disabled_at.is_(None))
    endpoints = session.execute(select(Endpoint.id, Endpoint.event_types).where(*able))
    receivers = [endpoint.id for endpoint in endpoints if event_type in endpoint.event_types]
    if not receivers:
        return
    at = now(session)
    event_id = new_id("evt")
    body = payload(event_type, event_id=event_id, object_id=object_id, created_at=int(at.timestamp()))
    for endpoint_id in receivers:
        row = Delivery(id=new_id("whdel"), endpoint_id=endpoint_id, created_at=at, due_at=at, status="pending")
        row.event_id, row.event_type, row.object_id, row.payload = event_id, event_type, object_id, body
        row.attempt, row.log = 0, []
        session.add(row)


def payload(event_type: str, *, event_id: str, object_id: str, created_at: int) -> str:
    """The body of an event, as OpenAI sends it: the object's id, without its content."""
    body = {"object": "event", "id": event_id, "type": event_type, "created_at": created_at, "data": {"id": object_id}}
    return json.dumps(body, separators=(",", ":"))
