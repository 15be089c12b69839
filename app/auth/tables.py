"""API keys. What is stored of a key is its readable beginning and a digest; the key itself was shown once."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Key(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_project_created", "project", "created_at", "id"),)

    #: The readable beginning of the key, `pf_` and eight characters: how it is looked up, listed and revoked.
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(8))
    name: Mapped[str] = mapped_column(String(128))
    #: SHA-256 of the whole key. It holds 256 random bits, so there is nothing that a slow hash would protect.
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    #: To the minute.
    last_used_at: Mapped[datetime | None]

    def valid(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)
