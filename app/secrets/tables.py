"""The table of a project's secrets for other services: tokens of hubs, keys of object stores."""

from datetime import datetime

from sqlalchemy import Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Secret(Base):
    """One secret of a project. Workers alone open it, for the requests that its kind and scope are about."""

    __tablename__ = "secrets"
    __table_args__ = (
        Index("ix_secrets_project_created", "project", "created_at", "id"),
        UniqueConstraint("project", "name"),
        UniqueConstraint("project", "kind", "scope", name="uq_secrets_project_kind_scope"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    name: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    #: What it is used for: an owner or repository on a hub, a bucket; empty: all of its kind.
    scope: Mapped[str] = mapped_column(String(256), default="")
    #: Its fields as JSON, encrypted by app.vault for this row's id.
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
