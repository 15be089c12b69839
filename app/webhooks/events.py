"""What endpoints can be told: an event becomes deliveries in the very transaction that it tells of."""

import json
from typing import Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import new_id, now
from app.webhooks.tables import Delivery, Endpoint

#: The first three are OpenAI's. Only endpoints that name a type are told of it.
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
    "fine_tuning.job.running": "A worker has taken a job up, at every attempt anew.",
    "fine_tuning.job.paused": "A job is paused, its state saved.",
    "fine_tuning.job.queued": "A job is back in the queue: resumed, or its worker stopped.",
}


def announce(session: Session, event_type: str, *, project: str, object_id: str) -> None:
    """Stores one delivery for every endpoint of the project that wants the event, due at once."""
    endpoints = session.scalars(select(Endpoint).where(Endpoint.project == project, Endpoint.disabled_at.is_(None)))
    wanted = [each for each in endpoints if event_type in each.event_types]
    if not wanted:
        return
    at = now(session)
    event_id = new_id("evt")
    body = payload(event_type, event_id=event_id, object_id=object_id, created_at=int(at.timestamp()))
    for endpoint in wanted:
        row = Delivery(id=new_id("whdel"), endpoint_id=endpoint.id, created_at=at, due_at=at, status="pending")
        row.event_id, row.event_type, row.object_id, row.payload = event_id, event_type, object_id, body
        row.attempt, row.log = 0, []
        session.add(row)


def payload(event_type: str, *, event_id: str, object_id: str, created_at: int) -> str:
    """OpenAI's envelope: which object it is about, and nothing of what is in it."""
    body = {"object": "event", "id": event_id, "type": event_type, "created_at": created_at, "data": {"id": object_id}}
    return json.dumps(body, separators=(",", ":"))
