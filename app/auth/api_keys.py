"""API keys: made once, shown once, stored as a digest, looked up by their readable beginning."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.auth.tables import Key
from app.db import now
from app.errors import Conflict, NotFound

#: `pf_<8 characters>_<256 random bits in hex>`: secret scanners can find it, and a double click selects it whole.
_FORM: Final = re.compile(r"(pf_[a-z0-9]{8})_[0-9a-f]{64}")
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
#: Compared with where there is no such key, so that the answer takes as long.
_NOBODY: Final = hashlib.sha256(b"").hexdigest()


def make(session: Session, *, project: str, role: str, name: str, expires_at: datetime | None) -> tuple[Key, str]:
    """A new key's row, and the key itself, which nothing can tell again."""
    key_id = "pf_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
    key = f"{key_id}_{secrets.token_hex(32)}"
    row = Key(id=key_id, project=project, role=role, name=name, sha256=digest(key), created_at=now(session))
    row.expires_at = expires_at
    session.add(row)
    session.flush()
    return row, key


def find(session: Session, presented: str) -> Key | None:
    """The key's row where it is right and may be used."""
    match = _FORM.fullmatch(presented)
    row = session.get(Key, match[1]) if match else None
    right = hmac.compare_digest(row.sha256 if row else _NOBODY, digest(presented))
    return row if row is not None and right and row.valid(now(session)) else None


def any_usable(session: Session) -> bool:
    at = now(session)
    usable = (Key.revoked_at.is_(None), or_(Key.expires_at.is_(None), Key.expires_at > at))
    return session.scalar(select(Key.id).where(*usable).limit(1)) is not None


def listed(session: Session, *, project: str | None) -> Sequence[Key]:
    """Newest first; of every project where none is named."""
    statement = select(Key).order_by(Key.created_at.desc(), Key.id.desc())
    return session.scalars(statement.where(Key.project == project) if project is not None else statement).all()


def revoke(session: Session, key_id: str) -> Key:
    """Ends a key for good. Its row stays, since the audit log names it."""
    row = session.get(Key, key_id, with_for_update=True)
    if row is None:
        raise NotFound(f"no key is called {key_id!r}; `permafrost keys list` shows them all", param="key_id")
    if row.revoked_at is not None:
        raise Conflict(f"key {key_id} was revoked before, on {row.revoked_at:%Y-%m-%d %H:%M} UTC")
    row.revoked_at = now(session)
    return row


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
