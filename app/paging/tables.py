"""What was deleted lately: its place in the lists of its kind, for those who are reading them."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Departed(Base):
    __tablename__ = "departed"
    __table_args__ = (Index("ix_departed_project_left", "project", "left_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    left_at: Mapped[datetime]
