"""The table of exports: results on their way to a destination, and those that have arrived."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.jsontypes import JsonDict


class Export(Base):
    """One result for one destination. `attempt` is the fencing token of its exporter."""

    __tablename__ = "exports"
    __table_args__ = (
        Index("ix_exports_status_due", "status", "due_at"),
        Index("ix_exports_job", "job_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    destination: Mapped[str] = mapped_column(String(512))
    #: "waiting" (for the job's end) | "pending" | "delivered" | "failed" | "dropped" (the job has no result)
    status: Mapped[str] = mapped_column(String(12))
    attempt: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    #: What the destination calls it: a URL, a commit, a run.
    receipt: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    #: [{attempt, created_at, error}]
    log: Mapped[list[Any]] = mapped_column(default=list)
