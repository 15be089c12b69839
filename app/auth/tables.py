"""The tables of API keys and of browsers' sessions, which hold digests; a key or a session's token is shown once."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_project_created", "project", "created_at", "id"),)

    #: The readable prefix of the key, `pf_` and eight characters, by which it is looked up, listed and revoked.
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(8))
    name: Mapped[str] = mapped_column(String(128))
    #: SHA-256 of the whole key. The key has 256 random bits, so a slow hash would add no protection.
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    #: To the minute.
    last_used_at: Mapped[datetime | None]

    def valid(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class BrowserSession(Base):
    """A signed-in browser: its cookie holds a token, and this row the digest of it."""

    __tablename__ = "browser_sessions"

    #: SHA-256 of the token, in hex.
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class PersonSession(Base):
    """A browser whose person the sign-in provider has vouched for. What the person may do follows from the groups."""

    __tablename__ = "person_sessions"

    #: SHA-256 of the token, in hex.
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    issuer: Mapped[str] = mapped_column(Text)
    #: By which the provider knows the person for ever; names and addresses can change hands.
    subject: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(128))
    #: Those of the person's groups that the settings named then.
    groups: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    #: By which the provider is asked about the person again, sealed; None where it gave none.
    refresh_token: Mapped[bytes | None]
    #: When the provider last vouched for the person, and when it is asked next; None in a session that is not renewed.
    checked_at: Mapped[datetime | None]
    check_at: Mapped[datetime | None]
