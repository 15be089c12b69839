"""The lease of one job: kept alive, lost, and given up in time when nobody can know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DataError, OperationalError

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from tests.conftest import Deployment
from tests.worker.supervisor.jobs import Later, events_of, eventually, job_of, submit
from worker.supervisor import lease as leases
from worker.supervisor.lease import LeaseKeeper


@pytest.fixture
def lease(deployment: Deployment) -> Lease:
    submit(deployment)
    lease = lifecycle.claim(deployment.db, worker="tester", seconds=600)
    assert lease is not None
    return lease


@contextmanager
def beats_raise(error: Exception) -> Iterator[list[int]]:
    """As long as the block lasts, the database answers every beat with this error; counts them."""
    calls: list[int] = []

    def beat(*_: Any, **__: Any) -> str:
        calls.append(1)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "beat", beat)
        yield calls


def away() -> OperationalError:
    return OperationalError("beat", {}, Exception("the database is away"))


def lease_until(db: Database, lease: Lease) -> Any:
    return job_of(db, lease.job_id).lease_until


def test_beats_extend_the_lease(db: Database, lease: Lease) -> None:
    """As long as the keeper lives, the lease moves on."""
    before = lease_until(db, lease)
    with LeaseKeeper(db, lease, heartbeat=0.05) as keeper:
        eventually(lambda: lease_until(db, lease) > before)
        assert not keeper.expired
        assert not keeper.stop_requested


def test_news_are_written_soon(db: Database, lease: Lease) -> None:
    """Without waiting for a heartbeat, and joined with what else came meanwhile."""
    with LeaseKeeper(db, lease, heartbeat=600) as keeper:
        keeper.post(AttemptUpdates(events=[NewEvent("one")], metrics=[(1, "train", {"loss": 1.0})]))
        keeper.post(AttemptUpdates(events=[NewEvent("two")], progress={"step": 2}), urgent=True)
        eventually(lambda: job_of(db, lease.job_id).progress == {"step": 2})
    assert [event.message for event in events_of(db, lease.job_id)][-2:] == ["one", "two"]


def test_wishes_are_heard(db: Database, lease: Lease) -> None:
    """A pause reaches the worker without waiting for a heartbeat; a resume takes it back."""
    with LeaseKeeper(db, lease, heartbeat=600) as keeper:
        lifecycle.pause(db, "default", lease.job_id)
        eventually(lambda: keeper.desired == "pause")
        assert keeper.stop_requested
        assert not keeper.expired
        lifecycle.resume(db, "default", lease.job_id)
        eventually(lambda: keeper.desired == "run")


def _cancel(db: Database, lease: Lease) -> None:
    lifecycle.cancel(db, "default", lease.job_id)


def _take_over(db: Database, lease: Lease) -> None:
    with db.write() as session:
        session.execute(update(Job).where(Job.id == lease.job_id).values(attempt=Job.attempt + 1))


def _expire(db: Database, lease: Lease) -> None:
    with db.write() as session:
        session.execute(update(Job).where(Job.id == lease.job_id).values(lease_until=now(session)))
    lifecycle.recover(db, limit=3)


@pytest.mark.parametrize("happening", [_cancel, _take_over, _expire])
def test_lost_lease_is_noticed(db: Database, lease: Lease, happening: Callable[[Database, Lease], None]) -> None:
    """Cancelled, taken over, or expired and swept: the keeper says so, and writes nothing any more."""
    with LeaseKeeper(db, lease, heartbeat=600) as keeper:
        happening(db, lease)
        eventually(lambda: keeper.lost is not None)
        assert keeper.expired
        count = len(events_of(db, lease.job_id))
        keeper.post(AttemptUpdates(events=[NewEvent("too late")]))
    assert len(events_of(db, lease.job_id)) == count
    with pytest.raises(LeaseLost):
        keeper.flush()


def test_news_survive_an_absence(db: Database, lease: Lease) -> None:
    """What could not be written while the database was away is written once, in order, when it is back."""
    with LeaseKeeper(db, lease, heartbeat=600) as keeper:
        with beats_raise(away()) as calls:
            keeper.post(AttemptUpdates(events=[NewEvent("one")]), urgent=True)
            eventually(lambda: calls)
            keeper.post(AttemptUpdates(events=[NewEvent("two")]), urgent=True)
        eventually(lambda: events_of(db, lease.job_id)[-1].message == "two")
    messages = [event.message for event in events_of(db, lease.job_id)]
    assert messages[-2:] == ["one", "two"]
    assert messages.count("one") == 1


def test_long_absence_ends_the_lease_early(db: Database, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper gives up while a fifth of the lease is left, so that the trainer is gone before the lease is."""
    with LeaseKeeper(db, lease, heartbeat=600) as keeper, beats_raise(away()):
        monkeypatch.setattr(leases, "time", Later(0.5 * lease.seconds))
        assert not keeper.expired
        monkeypatch.setattr(leases, "time", Later(0.81 * lease.seconds))
        assert keeper.expired and keeper.stop_requested
        assert keeper.lost is None


def test_news_that_cannot_be_stored_are_dropped(db: Database, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad report must not end the job: the beat goes through without it."""
    beat = lifecycle.beat

    def picky(db: Database, lease: Lease, news: AttemptUpdates | None = None) -> str:
        if news:
            raise DataError("beat", {}, Exception("a value that no column takes"))
        return beat(db, lease, news)

    monkeypatch.setattr(lifecycle, "beat", picky)
    before = lease_until(db, lease)
    with LeaseKeeper(db, lease, heartbeat=600) as keeper:
        keeper.post(AttemptUpdates(events=[NewEvent("poison")]), urgent=True)
        eventually(lambda: lease_until(db, lease) > before)
        assert not keeper.expired


def _database_time(db: Database) -> Any:
    with db.read() as session:
        return now(session)
