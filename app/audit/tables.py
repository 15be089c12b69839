"""The table of the audit log: one row for every change, written by the transaction that made the change."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class AuditLog(Base):
    __tablename__ = "audit_logs"
    __table_args__ = (Index("ix_audit_logs_project_created", "project", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    project: Mapped[str] = mapped_column(String(64))
    #: The route's operationId, or the command's name.
    action: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str | None] = mapped_column(String(256))
    # The actor at that time. Without a key: a service on loopback without keys, or the command line.
    key_id: Mapped[str | None] = mapped_column(String(16))
    key_name: Mapped[str | None] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(8))
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
