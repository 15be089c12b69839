"""Creates, finds and revokes API keys: a key is shown once, stored as a digest and found by its prefix."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.auth.tables import ApiKey
from app.db import now
from app.errors import Conflict, NotFound

#: `pf_<8 characters>_<256 random bits in hex>`: secret scanners can find it, and a double click selects all of it.
_FORMAT: Final = re.compile(r"(pf_[a-z0-9]{8})_[0-9a-f]{64}")
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
#: Compared with when no such key exists, so that both answers take equally long.
_UNKNOWN_KEY_DIGEST: Final = hashlib.sha256(b"").hexdigest()


def make(session: Session, *, project: str, role: str, name: str, expires_at: datetime | None) -> tuple[ApiKey, str]:
    """A new key's row, and the key itself, which cannot be recovered from the row."""
    key_id = "pf_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
    key = f"{key_id}_{secrets.token_hex(32)}"

    row = ApiKey(id=key_id, project=project, role=role, name=name, sha256=digest(key), created_at=now(session))
    row.expires_at = expires_at
    session.add(row)
    session.flush()
    return row, key


def find(session: Session, presented: str) -> ApiKey | None:
    """The key's row if the key is correct, not expired and not revoked."""
    match = _FORMAT.fullmatch(presented)
    row = session.get(ApiKey, match[1]) if match else None
    correct = hmac.compare_digest(row.sha256 if row else _UNKNOWN_KEY_DIGEST, digest(presented))
    return row if row is not None and correct and row.valid(now(session)) else None


def any_usable(session: Session) -> bool:
    """Whether at least one key exists that is neither expired nor revoked."""
    at = now(session)
    usable = (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > at))
    return session.scalar(select(ApiKey.id).where(*usable).limit(1)) is not None


def listed(session: Session, *, project: str | None) -> Sequence[ApiKey]:
    """Keys of one project, or of every project for None; newest first."""
    statement = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
    return session.scalars(statement.where(ApiKey.project == project) if project is not None else statement).all()


def revoke(session: Session, key_id: str) -> ApiKey:
    """Revokes a key for good. Its row is kept because the audit log refers to it."""
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is None:
        raise NotFound(f"no key is called {key_id!r}; `permafrost keys list` shows them all", param="key_id")
    if row.revoked_at is not None:
        raise Conflict(f"key {key_id} was already revoked on {row.revoked_at:%Y-%m-%d %H:%M} UTC")
    row.revoked_at = now(session)
    return row


def digest(key: str) -> str:
    """SHA-256 of the key in hex, as it is stored."""
    return hashlib.sha256(key.encode()).hexdigest()
