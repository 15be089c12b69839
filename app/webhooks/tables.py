"""Tables of webhook endpoints and deliveries. A delivery is stored in the transaction that causes its event."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Endpoint(Base):
    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_project_created", "project", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    name: Mapped[str] = mapped_column(String(256))
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[list[Any]]
    #: Encrypted by app.webhooks.vault: signing needs the secret itself, so a digest is not enough.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    secret_hint: Mapped[str] = mapped_column(String(16))
    rotated_at: Mapped[datetime | None]
    old_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    old_secret_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    #: No delivery before this time: the receiver is overloaded.
    not_before: Mapped[datetime | None]


class Delivery(Base):
    """One event for one endpoint. `attempt` is the fencing token of its sender."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_status_due", "status", "due_at"),
        Index("ix_webhook_deliveries_endpoint_created", "endpoint_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    #: The header `webhook-id`: the same in every attempt and replay, so that a receiver recognises repetitions.
    event_id: Mapped[str] = mapped_column(String(64))
    event_type: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str] = mapped_column(String(256))
    #: The body, with exactly the bytes that are signed.
    payload: Mapped[str] = mapped_column(Text)
    replay_of: Mapped[str | None] = mapped_column(String(64))

    status: Mapped[str] = mapped_column(String(12))  # "pending" | "delivered" | "failed"
    attempt: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: [{attempt, created_at, status_code, error, seconds}]
    log: Mapped[list[Any]] = mapped_column(default=list)
