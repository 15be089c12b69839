"""Secrets are stored encrypted, each for its endpoint, and need their key file."""

import pytest
from openai import OpenAI
from sqlalchemy import select

from app.db import Database
from app.settings import Settings
from app.webhooks.courier import Courier
from app.webhooks.tables import Delivery, Endpoint
from app.webhooks.vault import Vault
from tests.app.webhooks.endpoints import cancelled_job, deliveries_of, new_endpoint
from tests.app.webhooks.receiver import receiver

UNWRAP = OpenAI(api_key="none").webhooks.unwrap


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault(settings.webhook_key_path)


def test_a_worker_without_the_key_file_leaves_deliveries_alone(database: Database, vault: Vault, courier: Courier):
    """It could sign nothing, so it claims nothing; once the key is there, all goes out."""
    with receiver() as there:
        _, secret = new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        hidden = vault.path.rename(vault.path.with_suffix(".hidden"))
        assert courier.round() == 0 and deliveries_of(database)[0].attempt == 0
        hidden.rename(vault.path)
        assert courier.round() == 1
    UNWRAP(there.received[0].body, there.received[0].headers, secret=secret)


def test_a_wrong_key_file_is_told_in_the_log(database: Database, vault: Vault, courier: Courier):
    """Nothing is sent unsigned or signed with nonsense; it is tried again later."""
    with receiver() as there:
        new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        vault.path.write_bytes(bytes(32))
        assert courier.round() == 1
        assert there.received == []
    (row,) = deliveries_of(database)
    assert row.status == "pending" and "is not the key" in row.log[0]["error"]


def test_secrets_at_rest_are_sealed(database: Database, vault: Vault):
    """Neither the secret nor a part of it is in the database; what is sealed for one endpoint opens for no other."""
    one, secret = new_endpoint(database, vault)
    two, _ = new_endpoint(database, vault)
    with database.write() as session:
        rows = {row.id: row for row in session.scalars(select(Endpoint))}
        plain = vault.open(rows[one].secret, endpoint_id=one)
        assert plain not in rows[one].secret and secret.encode() not in rows[one].secret
        with pytest.raises(Exception, match="is not the key"):
            vault.open(rows[one].secret, endpoint_id=two)
    assert vault.path.stat().st_mode & 0o777 == 0o600 and len(plain) == 32
    with database.read() as session:
        assert session.scalar(select(Delivery.id)) is None
