"""Encrypts secrets in the database with AES-256-GCM, under a key that is stored in a file only."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import PermafrostError

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class VaultClosed(PermafrostError):
    """The key file is missing, or is not the one that encrypted the secret."""

    code = "webhook_key_unusable"


class Vault:
    """Encrypts (`seal`) and decrypts (`open`) secrets, each bound to the id of its row."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ready(self) -> bool:
        return self.path.exists()

    def seal(self, secret: bytes, *, row_id: str) -> bytes:
        """Encrypt a secret. Creates the key file if it does not exist."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(_load_or_create(self.path)).encrypt(nonce, secret, row_id.encode())

    def open(self, sealed: bytes, *, row_id: str) -> bytes:
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(_read(self.path)).decrypt(nonce, box, row_id.encode())
        except InvalidTag:
            raise VaultClosed(f"{self.path} is not the key that encrypted this secret") from None


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
        message = f"cannot read the key for secrets, {path} ({error.strerror}); see PERMAFROST_WEBHOOK_KEY"
        raise VaultClosed(message) from None
    if len(key) != _KEY_BYTES:
        raise VaultClosed(f"{path} must have {_KEY_BYTES} bytes, but has {len(key)}")
    return key
