"""Encrypts webhook secrets in the database with AES-256-GCM, under a key that is stored in a file only."""

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
    """The key file is missing, or is not the one that encrypted the secret."""

    code = "webhook_key_unusable"


class Vault:
    """Encrypts (`seal`) and decrypts (`open`) secrets, each bound to its endpoint's id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ready(self) -> bool:
        return self.path.exists()

    def seal(self, secret: bytes, *, endpoint_id: str) -> bytes:
        """Encrypt a secret. Creates the key file if there is none."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(_load_or_create(self.path)).encrypt(nonce, secret, endpoint_id.encode())

    def open(self, sealed: bytes, *, endpoint_id: str) -> bytes:
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(_read(self.path)).decrypt(nonce, box, endpoint_id.encode())
        except InvalidTag:
            raise VaultClosed(f"{self.path} is not the key that encrypted this webhook's secret") from None


def secrets_of(vault: Vault, row: Endpoint, at: datetime) -> Iterator[bytes]:
    """The secrets of an endpoint that are valid at a time, the newest first."""
    yield vault.open(row.secret, endpoint_id=row.id)
    if row.old_secret is not None and row.old_secret_until is not None and at < row.old_secret_until:
        yield vault.open(row.old_secret, endpoint_id=row.id)


def _load_or_create(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:  # readable by its owner only
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster: use its key
                os.link(file.name, path)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        message = f"cannot read the key for webhook secrets, {path} ({error.strerror}); see PERMAFROST_WEBHOOK_KEY"
        raise VaultClosed(message) from None
    if len(key) != _KEY_BYTES:
        raise VaultClosed(f"{path} must have {_KEY_BYTES} bytes, but has {len(key)}")
    return key
