"""Deliveries on each database: stored with the job's change of state, taken and completed by one sender."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db import Database, now
from app.vault import Vault
from app.webhooks import deliveries
from app.webhooks.deliveries import SCHEDULE
from app.webhooks.sender import PostResult
from app.webhooks.tables import Delivery
from tests.app.webhooks.endpoints import (
    cancelled_job,
    deliveries_of,
    end_leases,
    endpoint,
    make_due,
    new_endpoint,
)
from tests.patience import PATIENCE

FAILED = PostResult(0.1, status_code=500)


OK = PostResult(0.1, status_code=200)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "webhooks.key")


def test_who_claims_has_it_alone(db: Database, vault: Vault):
    """Eight claimers at once take five deliveries to five endpoints: each goes to exactly one of them."""
    for _ in range(5):
        new_endpoint(db, vault)
    cancelled_job(db)
    due: list[str] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        while (found := deliveries.take_due(db)) is not None:
            due.append(found.delivery.id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    while (left := deliveries.take_due(db)) is not None:  # whoever met a locked row went home early
        due.append(left.delivery.id)
    assert sorted(due) == sorted(row.id for row in deliveries_of(db))


def test_an_endpoint_gets_one_at_a_time(db: Database, vault: Vault):
    """While one is on its way, the next one to the same endpoint waits; another endpoint's does not."""
    new_endpoint(db, vault)
    cancelled_job(db)
    cancelled_job(db)
    first = deliveries.take_due(db)
    assert first is not None and deliveries.take_due(db) is None
    assert deliveries.complete(db, first, OK)
    second = deliveries.take_due(db)
    assert second is not None and second.delivery.id != first.delivery.id


def test_a_silent_holder_is_replaced_and_can_book_nothing(db: Database, vault: Vault):
    """After the lease another courier sends it again; the first one's word comes too late."""
    new_endpoint(db, vault)
    cancelled_job(db)
    first = deliveries.take_due(db)
    assert first is not None and deliveries.take_due(db) is None
    end_leases(db)
    second = deliveries.take_due(db)
    assert second is not None and second.attempt == first.attempt + 1
    assert deliveries.complete(db, first, FAILED) is False
    assert deliveries.complete(db, second, OK) is True
    (row,) = deliveries_of(db)
    assert row.status == "delivered" and [each["attempt"] for each in row.log] == [2]
    assert deliveries.complete(db, second, OK) is False


def test_the_schedule_to_its_end(db: Database, vault: Vault):
    """Ten attempts, each wait as Standard Webhooks has it and up to a fifth longer; then it has failed for good."""
    new_endpoint(db, vault)
    cancelled_job(db)
    waits = []
    for attempt in range(1, 11):
        due = deliveries.take_due(db)
        assert due is not None and due.attempt == attempt
        assert deliveries.complete(db, due, FAILED)
        (row,) = deliveries_of(db)
        if attempt < 10:
            assert row.status == "pending" and deliveries.take_due(db) is None
            waits.append((row.due_at - due.at).total_seconds())
            make_due(db)
    assert row.status == "failed" and row.finished_at is not None
    assert [each["attempt"] for each in row.log] == list(range(1, 11))
    assert deliveries.take_due(db) is None
    for wait, seconds in zip(waits, SCHEDULE, strict=True):
        assert seconds <= wait <= seconds * 1.2 + 60  # and the time that this test took


def test_gone_is_for_good(db: Database, vault: Vault):
    """410 switches the endpoint off, ends what else was on its way to it, and stores nothing new for it."""
    gone, _ = new_endpoint(db, vault)
    for _ in range(3):
        cancelled_job(db)
    due = deliveries.take_due(db)
    assert due is not None and deliveries.complete(db, due, PostResult(0.1, status_code=410))
    found = endpoint(db, gone)
    assert found.disabled_at is not None and "410" in str(found.disabled_reason)
    assert {row.status for row in deliveries_of(db)} == {"failed"}
    cancelled_job(db)
    assert len(deliveries_of(db)) == 3 and deliveries.take_due(db) is None


@pytest.mark.parametrize("status", [429, 502, 504])
def test_a_receiver_that_is_overwhelmed_gets_nothing_for_a_while(db: Database, vault: Vault, status: int):
    """What is due waits, too, for at least a minute, for as long as it asked, and for an hour at most."""
    busy, _ = new_endpoint(db, vault)
    cancelled_job(db)
    cancelled_job(db)
    for asked, least, most in ((None, 60, 60), (300.0, 300, 300), (1e9, 3600, 3600)):
        due = deliveries.take_due(db)
        assert due is not None
        deliveries.complete(db, due, PostResult(0.1, status_code=status, retry_after=asked))
        pause = endpoint(db, busy).not_before
        assert pause is not None and least <= (pause - due.at).total_seconds() <= most + 60
        assert deliveries.take_due(db) is None, "another delivery was due, and the endpoint had asked for a pause"
        make_due(db)


def test_a_replay_is_the_same_event_in_a_new_delivery(db: Database, vault: Vault):
    """Id and body are the event's own, so a receiver can tell; the log of the old delivery stays as it was."""
    new_endpoint(db, vault)
    cancelled_job(db)
    due = deliveries.take_due(db)
    assert due is not None and deliveries.complete(db, due, OK)
    (old,) = deliveries_of(db)
    with db.write() as session:
        made = deliveries.replay(session, session.get_one(Delivery, old.id))
    assert (made.event_id, made.payload, made.replay_of) == (old.event_id, old.payload, old.id)
    again = deliveries.take_due(db)
    assert again is not None and again.delivery.id == made.id


def test_finished_deliveries_are_forgotten_after_a_month(db: Database, vault: Vault):
    """Old ones that are still on their way are kept."""
    new_endpoint(db, vault)
    cancelled_job(db)
    due = deliveries.take_due(db)
    assert due is not None and deliveries.complete(db, due, OK)
    cancelled_job(db)
    deliveries.forget_old(db)
    assert len(deliveries_of(db)) == 2
    with db.write() as session:
        session.execute(update(Delivery).values(created_at=now(session) - timedelta(days=31)))
    deliveries.forget_old(db)
    assert [row.status for row in deliveries_of(db)] == ["pending"]


def test_an_endpoint_takes_its_deliveries_with_it(db: Database, vault: Vault):
    """Deleted while one is on its way: nothing is left to book, and nothing breaks."""
    gone, _ = new_endpoint(db, vault)
    cancelled_job(db)
    due = deliveries.take_due(db)
    assert due is not None
    with db.write() as session:
        session.delete(endpoint(db, gone))
    assert deliveries_of(db) == []
    assert deliveries.complete(db, due, OK) is False
