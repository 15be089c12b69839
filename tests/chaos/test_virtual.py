"""Many virtual workers on a real PostgreSQL: races too rare for real ones, and fleets too large."""

import contextlib
import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.db import Database, now
from app.errors import Conflict
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Event, Job
from migrations.tables import tables
from tests.app.jobs.jobs import new_job
from worker.supervisor.lease import AWAY

WORKERS, JOBS = 50, 100
SEED = int(os.environ.get("PERMAFROST_CHAOS_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture
def db(postgres_database: str) -> Iterator[Database]:
    database = Database(postgres_database)
    tables().create_all(database.engine)
    yield database
    database.close()


def submitted(db: Database) -> str:
    return lifecycle.submit(db, new_job())[0].id


@pytest.mark.fault(19)
@pytest.mark.timeout(600)
def test_cancel_races_with_completion(db: Database) -> None:
    """A thousand times, at the same moment: exactly one wins, the other is told, and one ending is on record."""
    start = threading.Barrier(2)
    won: Counter[str] = Counter()

    def complete(lease: Lease) -> bool:
        start.wait()
        try:
            lifecycle.finish(db, lease, Outcome("succeeded"))
        except LeaseLost:
            return False
        return True

    def cancel(job_id: str) -> bool:
        start.wait()
        try:
            lifecycle.cancel(db, "default", job_id)
        except Conflict as refused:
            assert refused.status == 409
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for _ in range(1_000):
            job_id = submitted(db)
            lease = lifecycle.claim(db, worker="w", seconds=600)
            assert lease is not None and lease.job_id == job_id
            answers = pool.submit(complete, lease), pool.submit(cancel, job_id)
            completed, cancelled = (each.result() for each in answers)
            assert completed != cancelled
            won["succeeded" if completed else "cancelled"] += 1
    with db.read() as session:
        found = Counter(dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).all()))
        ended = Event.message.in_(["Job succeeded", "Job cancelled"])
        endings = Counter(session.scalars(select(Event.job_id).where(ended)))
    assert found == won
    assert set(endings.values()) == {1} and len(endings) == 1_000


@pytest.mark.fault(4)
def test_sweeps_at_once(db: Database) -> None:
    """Four sweeps in the same moment over twenty leases that ran out: each job is taken over once."""
    jobs = [submitted(db) for _ in range(20)]
    for _ in jobs:
        assert lifecycle.claim(db, worker="gone", seconds=600)
    with db.write() as session:
        session.execute(update(Job).values(lease_until=now(session) - timedelta(seconds=1)))
    start = threading.Barrier(4)

    def recover() -> None:
        start.wait()
        lifecycle.recover(db, limit=3)

    _all_at_once([recover] * 4)
    with db.read() as session:
        assert {(job.status, job.crashes) for job in session.scalars(select(Job))} == {("queued", 1)}
        told = Counter(session.scalars(select(Event.job_id).where(Event.message.contains("stopped answering"))))
    assert told == dict.fromkeys(jobs, 1)


class Fleet:
    """Workers that die, sleep through their leases and wake up, by the dice."""

    def __init__(self, databases: list[Database]) -> None:
        self.databases = databases
        self.owners: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        self.finished: Counter[str] = Counter()
        self.over = threading.Event()

    def work(self, number: int) -> None:
        db, chance = self.databases[number % len(self.databases)], random.Random(SEED + number)
        life = 0
        while not self.over.is_set():
            with contextlib.suppress(*AWAY, LeaseLost):
                lease = lifecycle.claim(db, worker=f"{number}/{life}", seconds=2)
                if lease is None:
                    time.sleep(0.05)
                    continue
                self.owners[lease.job_id, lease.attempt].append(lease.worker)
                life += not self._live(db, lease, chance)

    def _live(self, db: Database, lease: Lease, chance: random.Random) -> bool:
        """False when this life ended before the job did."""
        for _ in range(chance.randrange(4)):
            fate = chance.random()
            if fate < 0.1:
                return False  # killed
            if fate < 0.2:
                time.sleep(2.5)  # stopped for longer than the lease, and unaware of it
            lifecycle.beat(db, lease, AttemptUpdates(events=[NewEvent("still here")]))
        lifecycle.finish(db, lease, Outcome("succeeded"))
        self.finished[lease.job_id] += 1
        return True

    def recover(self) -> None:
        """One of three sweeps; the back-off of crashed jobs passes quickly here."""
        db = self.databases[0]
        while not self.over.is_set():
            with contextlib.suppress(*AWAY):
                lifecycle.recover(db, limit=1_000)
                with db.write() as session:
                    session.execute(update(Job).where(Job.not_before.is_not(None)).values(not_before=None))
                with db.read() as session:
                    left = session.scalar(select(func.count()).where(Job.status.not_in(TERMINAL)))
                if not left:
                    self.over.set()
            time.sleep(0.2)


@pytest.mark.fault(29)
@pytest.mark.timeout(600)
def test_fleet(db: Database, postgres_database: str) -> None:
    """Fifty workers and a hundred jobs: every attempt has one owner, every job ends once."""
    print(f"PERMAFROST_CHAOS_SEED={SEED}")
    databases = [db, *(Database(postgres_database) for _ in range(4))]
    jobs = {submitted(db) for _ in range(JOBS)}
    fleet = Fleet(databases)
    try:
        _all_at_once([*([fleet.recover] * 3), *(lambda number=number: fleet.work(number) for number in range(WORKERS))])
    finally:
        for each in databases[1:]:
            each.close()
    assert all(len(owners) == 1 for owners in fleet.owners.values())
    with db.read() as session:
        rows = list(session.scalars(select(Job)))
        events = Counter(session.scalars(select(Event.job_id)))
        endings = Counter(session.scalars(select(Event.job_id).where(Event.message == "Job succeeded")))
    assert {row.id for row in rows} == jobs
    assert all(row.status == "succeeded" and row.lease_owner is None for row in rows)
    assert all(events[row.id] == row.events_count and endings[row.id] == 1 for row in rows)
    # An answer may have been lost on the way, so that nobody knows of a success; nobody ever believes in two.
    assert all(count == 1 for count in fleet.finished.values())


def _all_at_once(works: list[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        for each in [pool.submit(work) for work in works]:
            each.result()
