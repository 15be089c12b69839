"""Endpoints change: secrets rotate, `updated_at` moves with changes only, switching off and on."""

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import Database, now
from app.settings import Settings
from app.vault import Vault
from app.webhooks.courier import Courier
from app.webhooks.tables import Endpoint
from tests.app.webhooks.endpoints import cancelled_job, deliveries_of, new_endpoint
from tests.app.webhooks.receiver import receiver


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault(settings.webhook_key_path)


def test_after_a_day_the_old_secret_signs_no_more(
    database: Database, vault: Vault, courier: Courier, client: TestClient
):
    """Rotation with overlap: two signatures within 24 hours, one afterwards."""
    with receiver() as there:
        made, _ = new_endpoint(database, vault, url=there.url)
        body = {"keep_old_secret_active_for_24_hours": True}
        assert client.post(f"webhook_endpoints/{made}/rotate_secret", json=body).status_code == 200
        with database.read() as session:
            row = session.get_one(Endpoint, made)
            assert row.old_secret_until is not None and row.rotated_at is not None
            assert (row.old_secret_until - row.rotated_at).total_seconds() == 24 * 3600
        cancelled_job(database)
        courier.round()
        with database.write() as session:
            session.execute(update(Endpoint).values(old_secret_until=now(session)))
        cancelled_job(database)
        courier.round()
    counts = [
        {k.lower(): v for k, v in got.headers.items()}["webhook-signature"].count("v1,") for got in there.received
    ]
    assert counts == [2, 1]


def test_switching_off_and_on(database: Database, vault: Vault, courier: Courier, client: TestClient):
    """While it is off nothing is stored for it, sent to it or replayed to it; on again, all works."""
    with receiver() as there:
        made, _ = new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        off = client.post(f"webhook_endpoints/{made}", json={"enabled": False}).json()
        assert (off["enabled"], off["disabled_reason"]) == (False, "switched off")
        cancelled_job(database)
        assert courier.round() == 0
        (row,) = deliveries_of(database)
        refused = client.post(f"webhook_endpoints/{made}/deliveries/{row.id}/replay")
        assert refused.status_code == 409 and refused.headers["x-should-retry"] == "false"
        on = client.post(f"webhook_endpoints/{made}", json={"enabled": True}).json()
        assert (on["enabled"], on["disabled_reason"]) == (True, None)
        assert courier.round() == 1
    assert len(there.received) == 1


def test_updated_at_moves_with_changes_alone(database: Database, vault: Vault, client: TestClient):
    """An update that changes nothing leaves it, as OpenAI's documentation says."""
    made, _ = new_endpoint(database, vault)
    with database.write() as session:
        session.execute(update(Endpoint).values(updated_at=now(session).replace(year=2020)))
    before = client.get(f"webhook_endpoints/{made}").json()["updated_at"]
    same = client.post(f"webhook_endpoints/{made}", json={"name": "test", "enabled": True}).json()
    assert same["updated_at"] == before
    assert client.post(f"webhook_endpoints/{made}", json={"name": "new"}).json()["updated_at"] > before
