"""Sessions of browsers: a key that was given once becomes a cookie, which ends with the key, at logout, or in time."""

import hashlib
import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.auth.tables import ApiKey, BrowserSession
from app.db import now

COOKIE: Final = "permafrost_session"
#: A working day: who comes back the next morning gives the key again.
LASTS: Final = timedelta(hours=12)


def begin(session: Session, key: ApiKey) -> str:
    """A new session's token, for a key that was found good. Sessions that are over are removed."""
    at = now(session)
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= at))
    token = secrets.token_urlsafe(32)
    expires = min(filter(None, (at + LASTS, key.expires_at)))
    session.add(BrowserSession(id=_digest(token), key_id=key.id, created_at=at, expires_at=expires))
    return token


def find(session: Session, token: str) -> ApiKey | None:
    """The key of a session that is not over, as long as the key itself is good."""
    row = session.get(BrowserSession, _digest(token))
    at = now(session)
    if row is None or row.expires_at <= at:
        return None
    key = session.get(ApiKey, row.key_id)
    return key if key is not None and key.valid(at) else None


def end(session: Session, token: str) -> None:
    """Ends a session for good, wherever its cookie was copied to."""
    session.execute(delete(BrowserSession).where(BrowserSession.id == _digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
