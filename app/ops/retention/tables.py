"""How far retention has got."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class RetentionPlace(Base):
    """Of one kind of rows: those of all jobs up to this one, by the time of their end, are deleted."""

    __tablename__ = "retention_places"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    ended_at: Mapped[datetime]
    job_id: Mapped[str] = mapped_column(String(64))
    #: The job after it, where it has so many rows that they are deleted in several batches: those up to `number` are.
    next_id: Mapped[str | None] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(default=0)
