"""The table of recently deleted objects, which keep their sort key for readers who are paging through a list."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Tombstone(Base):
    """The sort key (created_at, id) of a deleted object."""

    __tablename__ = "departed"
    __table_args__ = (Index("ix_departed_project_left", "project", "left_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime] = mapped_column("left_at")
