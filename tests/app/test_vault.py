"""Secrets are stored encrypted, each for its row, and need their key file."""

from pathlib import Path

import pytest

from app.vault import Vault, VaultClosed


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "keys" / "webhooks.key")


def test_secrets_at_rest_are_sealed(vault: Vault):
    """What is stored shows nothing of a secret; what is sealed for one row opens for no other."""
    assert not vault.ready()
    sealed = vault.seal(b"hf_secret", row_id="secret-1")
    assert vault.ready() and b"hf_secret" not in sealed and sealed != vault.seal(b"hf_secret", row_id="secret-1")
    assert vault.open(sealed, row_id="secret-1") == b"hf_secret"
    with pytest.raises(VaultClosed, match="is not the key"):
        vault.open(sealed, row_id="secret-2")
    assert vault.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read the key"), (b"short", "must have 32 bytes, but has 5")]
)
def test_unusable_key_files_are_named(vault: Vault, content: bytes | None, said: str):
    """A worker that lacks the file, or has another one, says which."""
    sealed = vault.seal(b"hf_secret", row_id="secret-1")
    vault.path.unlink()
    if content is not None:
        vault.path.write_bytes(content)
    with pytest.raises(VaultClosed, match=said):
        vault.open(sealed, row_id="secret-1")
