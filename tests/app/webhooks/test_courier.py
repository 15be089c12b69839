"""From a job's end to a receiver on this machine: signed, once where it can be, at least once where it must be."""

import json
import threading
import time
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.settings import Settings
from app.vault import Vault
from app.webhooks import deliveries
from app.webhooks.courier import Courier, post
from app.webhooks.sender import Sender
from tests.app.jobs.jobs import new_job
from tests.app.webhooks.endpoints import CANCELLED, cancelled_job, deliveries_of, end_leases, make_due, new_endpoint
from tests.app.webhooks.receiver import receiver
from tests.patience import PATIENCE

UNWRAP = OpenAI(api_key="none").webhooks.unwrap


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault(settings.webhook_key_path)


def test_the_sdk_unwraps_what_a_job_sends(database: Database, vault: Vault, courier: Courier):
    """Succeeded, failed, cancelled: each arrives as the SDK's own event type, with the job's id."""
    types = [f"fine_tuning.job.{status}" for status in ("succeeded", "failed", "cancelled")]
    with receiver() as there:
        _, secret = new_endpoint(database, vault, *types, url=there.url)
        jobs = []
        for status in ("succeeded", "failed"):
            job, _ = lifecycle.submit(database, new_job())
            lease = lifecycle.claim(database, worker="w", seconds=60)
            assert lease is not None
            lifecycle.finish(database, lease, Outcome(status))
            jobs.append(job.id)
        jobs.append(cancelled_job(database))
        assert courier.round() == 3
    events: list[Any] = [UNWRAP(got.body, got.headers, secret=secret) for got in there.received]
    assert [(event.type, event.data.id) for event in events] == list(zip(types, jobs, strict=True))
    assert [type(event).__name__ for event in events] == [
        "FineTuningJobSucceededWebhookEvent",
        "FineTuningJobFailedWebhookEvent",
        "FineTuningJobCancelledWebhookEvent",
    ]
    assert json.loads(there.received[0].body).keys() == {"object", "id", "type", "created_at", "data"}
    assert {row.status for row in deliveries_of(database)} == {"delivered"}


def test_a_failure_is_tried_again_with_the_same_id_and_a_new_time(database: Database, vault: Vault, courier: Courier):
    """The id tells a receiver that it is a repetition; the signature is of the attempt, and verifies each time."""
    with receiver(500, (302, {"location": "http://127.0.0.1:1/"}), 200) as there:
        _, secret = new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        for _ in range(3):
            assert courier.round() == 1
            make_due(database)
        assert courier.round() == 0
    ids = {UNWRAP(got.body, got.headers, secret=secret).id for got in there.received}
    assert len(there.received) == 3 and len(ids) == 1
    (row,) = deliveries_of(database)
    assert row.status == "delivered" and [each["status_code"] for each in row.log] == [500, 302, 200]


def test_gone_ends_it(database: Database, vault: Vault, courier: Courier):
    """After a 410 the receiver is left in peace."""
    with receiver(410) as there:
        new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        cancelled_job(database)
        courier.round()
        make_due(database)
        courier.round()
        assert len(there.received) == 1


def test_a_courier_that_dies_before_it_books_sends_again(database: Database, vault: Vault, courier: Courier):
    """At least once: what was received but not booked comes a second time, under the same id."""
    with receiver() as there:
        _, secret = new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        due = deliveries.take_due(database)
        assert due is not None
        assert post(Sender(courier._sender._reach), vault, due).ok  # and here it dies
        assert courier.round() == 0
        end_leases(database)
        assert courier.round() == 1
    one, two = (UNWRAP(got.body, got.headers, secret=secret) for got in there.received)
    assert one.id == two.id


def test_many_couriers_send_each_delivery_once(database: Database, settings: Settings, vault: Vault):
    """Three workers, five endpoints, eight events: forty deliveries, none twice, none lost."""
    with receiver() as there:
        for _ in range(5):
            new_endpoint(database, vault, url=there.url)
        couriers = [Courier(database, settings) for _ in range(3)]
        for each in couriers:
            each.start()
        jobs = [cancelled_job(database) for _ in range(8)]
        there.wait(40)
        deadline = time.monotonic() + PATIENCE
        while any(row.status == "pending" for row in deliveries_of(database)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for each in couriers:
            each.close()
    got = [json.loads(each.body)["data"]["id"] for each in there.received]
    assert sorted(got) == sorted(jobs * 5)
    assert {row.status for row in deliveries_of(database)} == {"delivered"}


def test_a_slow_receiver_holds_up_nobody_else(database: Database, settings: Settings, vault: Vault):
    """It keeps one sender busy, with one of its deliveries; the events of others arrive meanwhile."""
    stop = threading.Event()
    with receiver(lambda _: stop.wait(PATIENCE)) as slow, receiver() as quick:
        new_endpoint(database, vault, url=slow.url)
        new_endpoint(database, vault, url=quick.url)
        for _ in range(6):
            cancelled_job(database)
        courier = Courier(database, settings)
        courier.start()
        quick.wait(6)
        assert len(slow.received) == 1
        stop.set()
        courier.close()


def test_a_courier_that_is_stopped_leaves_its_work_to_others(database: Database, settings: Settings, vault: Vault):
    """What it was sending is not booked as a failure; the next courier sends it."""
    stop = threading.Event()
    with receiver(lambda _: stop.wait(PATIENCE)) as there:
        new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        courier = Courier(database, settings)
        courier.start()
        there.wait()
        courier.close()
        stop.set()
        (row,) = deliveries_of(database)
        assert (row.status, row.log) == ("pending", [])
        end_leases(database)
        there.answers = [200]
        assert Courier(database, settings).round() == 1
    assert deliveries_of(database)[0].status == "delivered"


def test_an_address_that_is_not_allowed_is_not_asked(
    database: Database, tmp_path: Any, settings: Settings, vault: Vault
):
    """An endpoint from a time with a wider allow-list gets nothing now, and its log says why."""
    with receiver() as there:
        new_endpoint(database, vault, url=there.url)
        cancelled_job(database)
        strict = Courier(database, settings.model_copy(update={"webhook_allow": ""}))
        assert strict.round() == 1
        assert there.received == []
    (row,) = deliveries_of(database)
    assert row.status == "pending" and "PERMAFROST_WEBHOOK_ALLOW" in row.log[0]["error"]


def test_the_log_and_the_replay_over_http(database: Database, vault: Vault, courier: Courier, client: TestClient):
    """Each attempt with its answer, newest delivery first; a replay sends the same event again."""
    with receiver(503, 200) as there:
        made, secret = new_endpoint(database, vault, url=there.url)
        job_id = cancelled_job(database)
        path = f"webhook_endpoints/{made}/deliveries"
        courier.round()
        waiting = client.get(path).json()["data"][0]
        assert waiting["status"] == "pending" and waiting["next_attempt_at"] > waiting["created_at"]
        make_due(database)
        courier.round()
        page = client.get(path).json()
        (row,) = page["data"]
        assert (row["status"], row["object_id"], row["event_type"]) == ("delivered", job_id, CANCELLED)
        assert [each["status_code"] for each in row["attempts"]] == [503, 200] and page["has_more"] is False
        assert client.get(f"{path}/{row['id']}").json() == row
        replayed = client.post(f"{path}/{row['id']}/replay").json()
        assert replayed["replay_of"] == row["id"] and replayed["event_id"] == row["event_id"]
        courier.round()
    assert [each["id"] for each in client.get(path).json()["data"]] == [replayed["id"], row["id"]]
    assert len({UNWRAP(got.body, got.headers, secret=secret).id for got in there.received}) == 1
    assert client.get(f"{path}/whdel-none").json()["error"]["param"] == "webhook_delivery_id"
    assert client.post(f"{path}/whdel-none/replay").status_code == 404


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
