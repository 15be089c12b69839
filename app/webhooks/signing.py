"""Standard Webhooks signatures: HMAC-SHA256 over id, time and body, one per valid secret."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from app.vault import Vault
from app.webhooks.tables import Endpoint

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32


def new_secret() -> bytes:
    """A random secret of 32 bytes."""
    return secrets.token_bytes(_SECRET_BYTES)


def written(secret: bytes) -> str:
    """A secret as receivers configure it: whsec_ and base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def hint(secret: bytes) -> str:
    """The end of a secret, enough to distinguish two of them."""
    return f"{_PREFIX}…{written(secret)[-5:-1]}"  # the last character is padding


def headers(body: str, *, event_id: str, timestamp: int, with_secrets: Iterable[bytes]) -> dict[str, str]:
    """The headers of an event: id, Unix time in seconds, and one signature per secret."""
    signed = f"{event_id}.{timestamp}.{body}".encode()
    signatures = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in with_secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(signature).decode()}" for signature in signatures),
    }


def secrets_of(vault: Vault, row: Endpoint, at: datetime) -> Iterator[bytes]:
    """The secrets of an endpoint that are valid at a time, the newest first."""
    yield vault.open(row.secret, row_id=row.id)
    if row.old_secret is not None and row.old_secret_until is not None and at < row.old_secret_until:
        yield vault.open(row.old_secret, row_id=row.id)
