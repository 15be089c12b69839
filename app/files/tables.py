"""The table of uploaded files. A row has the name and owner; the bytes are a blob in the storage."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class File(Base):
    __tablename__ = "files"
    __table_args__ = (Index("ix_files_project_created", "project", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(24))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    blob: Mapped[str] = mapped_column(String(96))
    status: Mapped[str] = mapped_column(String(12))
    status_details: Mapped[str | None] = mapped_column(Text)
    #: Where a file by reference comes from; once fetched, without what may be a signature in a web address.
    source: Mapped[str | None] = mapped_column(Text)

    @property
    def pending(self) -> bool:
        """Whether a worker has yet to fetch its bytes."""
        return not self.blob
