"""Signing secrets at rest: sealed with AES-256-GCM under a key that lies in a file and never in the database."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import PermafrostError
from app.webhooks.tables import Endpoint

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class VaultClosed(PermafrostError):
    """The key file is not there, or is not the one that the secret was sealed with."""

    code = "webhook_key_unusable"


class Vault:
    """Seals and opens; what was sealed for one endpoint does not open for another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ready(self) -> bool:
        return self.path.exists()

    def seal(self, secret: bytes, *, endpoint_id: str) -> bytes:
        """Makes the key file where there is none."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(_load_or_create(self.path)).encrypt(nonce, secret, endpoint_id.encode())

    def open(self, sealed: bytes, *, endpoint_id: str) -> bytes:
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(_read(self.path)).decrypt(nonce, box, endpoint_id.encode())
        except InvalidTag:
            raise VaultClosed(f"{self.path} is not the key that this webhook's secret was sealed with") from None


def secrets_of(vault: Vault, row: Endpoint, at: datetime) -> Iterator[bytes]:
    """The secrets that sign at that moment, the newest first."""
    yield vault.open(row.secret, endpoint_id=row.id)
    if row.old_secret is not None and row.old_secret_until is not None and at < row.old_secret_until:
        yield vault.open(row.old_secret, endpoint_id=row.id)


def _load_or_create(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:  # readable for its owner alone
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster, and its key is the one
                os.link(file.name, path)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        message = f"cannot read the key of webhook secrets, {path} ({error.strerror}); see PERMAFROST_WEBHOOK_KEY"
        raise VaultClosed(message) from None
    if len(key) != _KEY_BYTES:
        raise VaultClosed(f"{path} must hold {_KEY_BYTES} bytes, and holds {len(key)}")
    return key
