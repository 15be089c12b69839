"""Uploads in parts: files on their way, and the parts of them that have arrived."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Upload(Base):
    """A file that arrives in parts. Once it is completed, `file_id` is the file that was made of them."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_project_created", "project", "created_at", "id"),
        # What a worker's maintenance looks for: few rows of many.
        Index("ix_uploads_has_parts", "expires_at", postgresql_where=text("has_parts"), sqlite_where=text("has_parts")),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]  # nothing can be added to it, or made of it, from then on
    status: Mapped[str] = mapped_column(String(12))  # pending, completed, cancelled
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(24))
    bytes: Mapped[int] = mapped_column(BigInteger)
    file_seconds: Mapped[int | None] = mapped_column(Integer)  # lifetime of the file that is made of it
    file_id: Mapped[str | None] = mapped_column(String(64))
    has_parts: Mapped[bool] = mapped_column(default=True)  # False: the storage holds no bytes of its parts any more


class UploadPart(Base):
    """One part whose bytes are stored, under a name and not as a blob."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


def folder_of(upload_id: str) -> str:
    """Where the storage keeps the parts of an upload."""
    return f"uploads/{upload_id}"
