"""Trainers' logs in chunks of whole lines, in the database so that every API process and worker can read them."""

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class LogChunk(Base):
    """Lines `first` to `first + lines - 1` of a job's log; lines are numbered from 1 across its attempts."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[int]
    attempt: Mapped[int]
    created_at: Mapped[datetime]
    size: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
