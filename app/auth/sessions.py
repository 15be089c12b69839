"""Sessions of browsers: a key, or a provider's word for a person, becomes a cookie; it ends at logout, or in time."""

import hashlib
import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.auth.person import Person, SignedIn, roles
from app.auth.tables import ApiKey, BrowserSession, PersonSession
from app.db import now
from app.settings import Settings

COOKIE: Final = "permafrost_session"
#: A working day: who comes back the next morning signs in again.
LASTS: Final = timedelta(hours=12)


def begin(session: Session, key: ApiKey) -> str:
    """A new session's token, for a key that was found good. Sessions that are over are removed."""
    at = now(session)
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= at))
    token = secrets.token_urlsafe(32)
    expires = min(filter(None, (at + LASTS, key.expires_at)))
    session.add(BrowserSession(id=_digest(token), key_id=key.id, created_at=at, expires_at=expires))
    return token


def begin_for(session: Session, person: Person, settings: Settings) -> str:
    """A new session's token, for a person of the provider. Of the groups, those that the settings name are kept."""
    at = now(session)
    session.execute(delete(PersonSession).where(PersonSession.expires_at <= at))
    token = secrets.token_urlsafe(32)
    row = PersonSession(id=_digest(token), issuer=settings.oidc_issuer, subject=person.subject, name=person.name)
    row.groups = sorted({grant.group for grant in settings.grants} & set(person.groups))
    row.created_at, row.expires_at = at, at + LASTS
    session.add(row)
    return token


def find(session: Session, token: str, settings: Settings) -> ApiKey | SignedIn | None:
    """The key or the person of a session that is not over, as long as the key, or a group's grant, is good."""
    return _key(session, token) or _person(session, token, settings)


def end(session: Session, token: str) -> None:
    """Ends a session for good, wherever its cookie was copied to."""
    for table in (BrowserSession, PersonSession):
        session.execute(delete(table).where(table.id == _digest(token)))


def _key(session: Session, token: str) -> ApiKey | None:
    row = session.get(BrowserSession, _digest(token))
    at = now(session)
    if row is None or row.expires_at <= at:
        return None
    key = session.get(ApiKey, row.key_id)
    return key if key is not None and key.valid(at) else None


def _person(session: Session, token: str, settings: Settings) -> SignedIn | None:
    """Settings decide anew at every look: a group that was taken out of them opens nothing, nor does another issuer."""
    row = session.get(PersonSession, _digest(token)) if settings.oidc_issuer else None
    if row is None or row.expires_at <= now(session) or row.issuer != settings.oidc_issuer:
        return None
    may = roles(row.groups, settings.grants)
    return SignedIn(Person(row.subject, row.name, ()).label, may, row.expires_at) if may else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
