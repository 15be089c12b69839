"""The rows of what projects use: in step with the leases, whatever ends one, and corrected where they are not."""

import contextlib
import random
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from app.db import Database, now
from app.errors import Conflict
from app.jobs.queue import lifecycle, usage
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.fair_share import HALF_LIFE
from app.jobs.queue.tables import Job, ProjectUsage
from tests.app.jobs.jobs import claim, new_job


def running(db: Database, project: str = "default") -> int | None:
    with db.read() as session:
        row = session.get(ProjectUsage, project)
        assert usage.differences(session) == []
        return row.running if row else None


@pytest.fixture
def lease(db: Database) -> Lease:
    lifecycle.submit(db, new_job())
    assert running(db) is None
    lease = claim(db)
    assert running(db) == 1
    return lease


def _expire(db: Database) -> None:
    with db.write() as session:
        session.execute(update(Job).values(lease_until=now(session) - timedelta(seconds=1)))


def _recover(db: Database, lease: Lease) -> None:
    _expire(db)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "recount", lambda db: [])  # what is to be seen is the takeover itself
        lifecycle.recover(db, limit=3)


def _cancel_sweep(db: Database, lease: Lease) -> None:
    with db.write() as session:
        session.execute(update(Job).values(sweep_id="ftsweep-1"))
        lifecycle.cancel_jobs_of_sweep(session, "default", "ftsweep-1")


ENDS: dict[str, Callable[[Database, Lease], object]] = {
    "succeeded": lambda db, lease: lifecycle.finish(db, lease, Outcome("succeeded")),
    "failed": lambda db, lease: lifecycle.finish(db, lease, Outcome("failed")),
    "released": lifecycle.release,
    "lost": lambda db, lease: lifecycle.lose(db, lease, limit=3),
    "lost too often": lambda db, lease: lifecycle.lose(db, lease, limit=1),
    "crashed": lambda db, lease: lifecycle.crash(db, lease, "killed", limit=3),
    "crashed too often": lambda db, lease: lifecycle.crash(db, lease, "killed", limit=1),
    "disk full": lambda db, lease: lifecycle.pause_attempt(db, lease, "the disk is full"),
    "cancelled": lambda db, lease: lifecycle.cancel(db, "default", lease.job_id),
    "cancelled with its sweep": _cancel_sweep,
    "taken over": _recover,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("pausing", [False, True], ids=["running", "pausing"])
def test_every_end_of_a_lease_gives_its_devices_back(
    db: Database, lease: Lease, end: Callable[[Database, Lease], object], pausing: bool
) -> None:
    """Once, also where the end is repeated."""
    if pausing:
        lifecycle.pause(db, "default", lease.job_id)
        assert running(db) == 1
    end(db, lease)
    assert running(db) == 0
    for again in (lambda: end(db, lease), lambda: lifecycle.cancel(db, "default", lease.job_id)):
        with contextlib.suppress(Conflict, LeaseLost):
            again()
        assert running(db) == 0


def test_a_transaction_that_fails_changes_nothing(db: Database, lease: Lease) -> None:
    """Row and lease are written together or not at all."""
    with pytest.raises(LeaseLost):
        lifecycle.finish(db, Lease(lease.job_id, 7, "another", 60), Outcome("succeeded"))
    with pytest.raises(ZeroDivisionError), db.write() as session:
        lifecycle.cancel_jobs_of_sweep(session, "default", "none")
        usage.note(session, "default", 5)
        raise ZeroDivisionError
    assert running(db) == 1


def test_usage_is_smoothed_over_time(db: Database, lease: Lease) -> None:
    """After a half-life of one device it is one half, and after one more without a device a quarter."""

    def a_half_life_passes() -> None:
        with db.write() as session:
            row = session.get_one(ProjectUsage, "default")
            row.at -= timedelta(seconds=HALF_LIFE)

    def smoothed() -> float:
        with db.read() as session:
            return session.get_one(ProjectUsage, "default").smoothed

    a_half_life_passes()
    lifecycle.release(db, lease)
    assert smoothed() == pytest.approx(0.5, abs=1e-3)
    a_half_life_passes()
    claim(db)
    assert smoothed() == pytest.approx(0.25, abs=1e-3)


def test_rows_are_corrected_by_the_leases(db: Database) -> None:
    """As a worker of a version without these rows leaves them: it claims, and ends what others have claimed."""
    for project, devices in (("a", 1), ("b", 1), ("c", 1)):
        lifecycle.submit(db, new_job(id=f"ftjob-{project}", project=project, devices=devices))
    with db.write() as session:
        later = now(session) + timedelta(minutes=1)
        old = {"status": "running", "lease_owner": "old", "lease_until": later, "attempt": 1}
        session.execute(update(Job).where(Job.project == "a").values(old))
        session.add(ProjectUsage(project="b", running=3, smoothed=0.5, at=now(session)))
    with db.read() as session:
        assert usage.differences(session) == [("a", 0, 1), ("b", 3, 0)]
    assert lifecycle.recover(db, limit=3) == ["ftjob-b", "ftjob-c"]
    assert [running(db, project) for project in ("a", "b", "c")] == [1, 0, None]
    assert usage.recount(db) == []


def test_a_job_of_an_older_api_is_taken(db: Database) -> None:
    """It writes no time of the queue while an upgrade is under way; its jobs go first."""
    lifecycle.submit(db, new_job(priority=100))
    job, _ = lifecycle.submit(db, new_job())
    with db.write() as session:
        columns = [column.name for column in Job.__table__.columns if column.name not in ("id", "queue_time")]
        names = ", ".join(f'"{name}"' for name in columns)
        copy = f"INSERT INTO jobs (id, {names}) SELECT 'ftjob-old', {names} FROM jobs WHERE id = :id"
        session.execute(text(copy), {"id": job.id})
    assert claim(db).job_id == "ftjob-old"


@pytest.mark.timeout(120)
def test_claims_ends_and_takeovers_at_once(db: Database) -> None:
    """Six threads claim, end, cancel and take over jobs of four projects, some many jobs in one transaction.

    None of them waits in a circle (PostgreSQL would end one with an error), and at the end the rows equal the leases.
    """
    projects = ["a", "b", "c", "d"]
    jobs = []
    for number in range(60):
        project = projects[number % 4]
        sweep = f"ftsweep-{project}{number // 20}"
        jobs.append((project, lifecycle.submit(db, new_job(project=project, sweep_id=sweep))[0].id))
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def act(seed: int) -> None:
        chance = random.Random(seed)
        start.wait()
        try:
            for turn in range(12):
                _any_move(db, chance, jobs, worker=f"w{seed}/{turn}")
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    with db.read() as session:
        assert usage.differences(session) == []
        assert {row.project for row in session.scalars(select(ProjectUsage))} == set(projects)


def _any_move(db: Database, chance: random.Random, jobs: list[tuple[str, str]], *, worker: str) -> None:
    lease = lifecycle.claim(db, worker=worker, seconds=60)
    fate, (project, job_id) = chance.random(), chance.choice(jobs)
    try:
        if fate < 0.1:
            lifecycle.cancel(db, project, job_id)
        elif fate < 0.2:
            lifecycle.pause(db, project, job_id)
        elif fate < 0.25:
            with db.write() as session:
                lifecycle.cancel_jobs_of_sweep(session, project, f"ftsweep-{project}{chance.randrange(3)}")
        elif fate < 0.4:
            with db.write() as session:  # the leases of some jobs of all projects run out
                held = select(Job.id).where(Job.lease_until.is_not(None)).limit(6).with_for_update(skip_locked=True)
                past = now(session) - timedelta(seconds=1)
                session.execute(update(Job).where(Job.id.in_(session.scalars(held).all())).values(lease_until=past))
            lifecycle.recover(db, limit=100)
        elif lease and fate < 0.7:
            lifecycle.beat(db, lease, AttemptUpdates(progress={"step": 1}))
            lifecycle.finish(db, lease, Outcome("succeeded"))
        elif lease and fate < 0.9:
            lifecycle.release(db, lease)
    except (Conflict, LeaseLost):
        pass
