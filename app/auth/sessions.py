"""Sessions of browsers: a key, or a provider's word for a person, becomes a cookie; it ends at logout, or in time."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.auth.person import Checks, Person, SignedIn, roles
from app.auth.provider import VouchedFor
from app.auth.tables import ApiKey, BrowserSession, PersonSession
from app.db import now
from app.settings import Settings
from app.vault import Vault

COOKIE: Final = "permafrost_session"
#: A working day: who comes back the next morning signs in again.
LASTS: Final = timedelta(hours=12)
#: Of a person about whom the provider cannot be asked again: after it the person goes there anew.
_UNRENEWED: Final = timedelta(hours=1)
#: How long a session goes on when the provider should be asked about its person, and is away.
_AWAY: Final = timedelta(hours=1)


def begin(session: Session, key: ApiKey) -> str:
    """A new session's token, for a key that was found good. Sessions that are over are removed."""
    at = now(session)
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= at))
    token = secrets.token_urlsafe(32)
    expires = min(filter(None, (at + LASTS, key.expires_at)))
    session.add(BrowserSession(id=digest(token), key_id=key.id, created_at=at, expires_at=expires))
    return token


def begin_for(session: Session, vouched: VouchedFor, settings: Settings) -> str:
    """A new session's token, for a person of the provider. Of the groups, those that the settings name are kept."""
    at = now(session)
    session.execute(delete(PersonSession).where(PersonSession.expires_at <= at))
    token, person = secrets.token_urlsafe(32), vouched.person
    row = PersonSession(id=digest(token), issuer=settings.oidc_issuer, subject=person.subject, name=person.name)
    row.created_at = at
    row.expires_at = at + (LASTS if vouched.refresh_token else min(LASTS, max(_UNRENEWED, _between(settings))))
    vouch(row, vouched, settings, at)
    session.add(row)
    return token


def vouch(row: PersonSession, vouched: VouchedFor, settings: Settings, at: datetime) -> None:
    """Takes down what the provider says of the person now, and when to ask it again."""
    row.groups = sorted({grant.group for grant in settings.grants} & set(vouched.person.groups))
    row.checked_at = at
    if vouched.refresh_token:
        sealed = Vault(settings.webhook_key_path).seal(vouched.refresh_token.encode(), row_id=row.id)
        row.refresh_token, row.check_at = sealed, at + _between(settings)


def counts_until(row: PersonSession, settings: Settings) -> datetime:
    """Until when the provider's last word counts, although it should have been asked again."""
    return (row.checked_at or row.created_at) + _between(settings) + _AWAY


def find(session: Session, token: str, settings: Settings) -> ApiKey | SignedIn | None:
    """The key or the person of a session that is not over, as long as the key, or a group's grant, is good."""
    return _key(session, token) or _person(session, token, settings)


def end(session: Session, token: str) -> None:
    """Ends a session for good, wherever its cookie was copied to."""
    for table in (BrowserSession, PersonSession):
        session.execute(delete(table).where(table.id == digest(token)))


def _key(session: Session, token: str) -> ApiKey | None:
    row = session.get(BrowserSession, digest(token))
    at = now(session)
    if row is None or row.expires_at <= at:
        return None
    key = session.get(ApiKey, row.key_id)
    return key if key is not None and key.valid(at) else None


def _person(session: Session, token: str, settings: Settings) -> SignedIn | None:
    """Settings decide anew at every look: a group that was taken out of them opens nothing, nor does another issuer."""
    row = session.get(PersonSession, digest(token)) if settings.oidc_issuer else None
    if row is None or row.expires_at <= now(session) or row.issuer != settings.oidc_issuer:
        return None
    may = roles(row.groups, settings.grants)
    label = Person(row.subject, row.name, ()).label
    checks = Checks(row.check_at, counts_until(row, settings)) if row.check_at else None
    return SignedIn(label, may, row.expires_at, checks) if may else None


def _between(settings: Settings) -> timedelta:
    return timedelta(seconds=settings.oidc_check_seconds)


def digest(token: str) -> str:
    """The id of the row of a session with this token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
