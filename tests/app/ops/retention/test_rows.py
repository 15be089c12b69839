"""What retention deletes and what it leaves, on both databases."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from app.db import Database, now
from app.jobs.queue.tables import Event, Job, Metric
from app.logs.tables import LogChunk
from app.ops.retention import rows
from app.ops.retention.rows import EVENTS, LOGS, POINTS, AgingRows, delete_batch
from app.ops.retention.tables import RetentionPlace
from app.sweeps.metrics import LAST_STEPS
from tests.app.jobs.plans import plan_of
from tests.app.ops.retention.jobs import ended_job, running_job


def deleted(db: Database, kind: AgingRows, *, days: float = 30) -> list[int]:
    """The sizes of the batches until nothing is left."""
    sizes: list[int] = []
    while True:
        with db.write() as session:
            size = delete_batch(session, kind, before(db, days))
        if size is None:
            return sizes
        sizes.append(size)


def before(db: Database, days: float) -> datetime:
    with db.read() as session:
        return now(session) - timedelta(days=days)


def left(db: Database, kind: AgingRows) -> dict[str, int]:
    with db.read() as session:
        counted = select(kind.job_id, func.count()).group_by(kind.job_id)
        return dict(session.execute(counted).all())


def test_old_jobs_lose_their_events_and_keep_the_last_one(db: Database) -> None:
    """It says how the job ended. What ended later, or runs, keeps all, and a second round finds nothing to do."""
    for name, days in (("old", 40), ("older", 50), ("new", 20)):
        ended_job(db, name, days=days)
    running_job(db, "runs")
    assert deleted(db, EVENTS) == [10]  # created, started, three of its own; twice
    assert left(db, EVENTS) == {"old": 1, "older": 1, "new": 6, "runs": 5}
    with db.read() as session:
        assert session.scalars(select(Event.message).where(Event.job_id == "old")).one() == "Job failed: as it should"
    assert deleted(db, EVENTS) == []
    assert deleted(db, EVENTS, days=10) == [5]


@pytest.mark.parametrize("kind", [EVENTS, LOGS, POINTS], ids=lambda kind: kind.name)
def test_batches_are_small(db: Database, kind: AgingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with many rows takes several batches, and jobs with few of them share one."""
    monkeypatch.setattr(rows, "ROWS", 40)
    ended_job(db, "large", days=60, count=100)
    for number in range(9):
        ended_job(db, f"small-{number}", days=50 - number, count=10)
    sizes = deleted(db, kind)
    assert max(sizes) <= 40 and len(sizes) > 4
    kept = {"events": 1, "logs": 0, "points": LAST_STEPS + 1}[kind.name]
    assert left(db, kind).get("large", 0) == kept


def test_of_each_curve_the_last_steps_stay(db: Database) -> None:
    """Sweeps rank their jobs by them."""
    ended_job(db, "old", days=40, count=LAST_STEPS + 5)
    assert deleted(db, POINTS) == [5]
    with db.read() as session:
        train = select(Metric.step).where(Metric.split == "train").order_by(Metric.step)
        assert session.scalars(train).first() == 6
        assert session.scalars(select(Metric.step).where(Metric.split == "valid")).all() == [1]


def test_a_log_goes_as_a_whole(db: Database) -> None:
    """Why a job failed is in the job's error, too."""
    ended_job(db, "old", days=40)
    ended_job(db, "new", days=4)
    assert deleted(db, LOGS) == [3]
    with db.read() as session:
        assert set(session.scalars(select(LogChunk.job_id))) == {"new"}
        assert session.get_one(Job, "old").log_lines == 3


def test_a_job_that_is_deleted_meanwhile_takes_nothing_of_others_along(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place inside a large job is no place inside the one after it."""
    monkeypatch.setattr(rows, "ROWS", 10)
    ended_job(db, "large", days=60, count=30)
    ended_job(db, "next", days=50, count=30)
    with db.write() as session:
        assert delete_batch(session, EVENTS, before(db, 30)) == 10
    with db.write() as session:
        session.delete(session.get_one(Job, "large"))
    assert sum(deleted(db, EVENTS)) == 32
    assert left(db, EVENTS) == {"next": 1}


def test_workers_take_turns(db: Database) -> None:
    """While one is at a batch, another does not wait for it."""
    ended_job(db, "old", days=40)
    assert deleted(db, EVENTS) == [5]
    if db.sqlite:
        return  # one writer at a time
    with db.write() as session:
        session.scalars(select(RetentionPlace).with_for_update()).all()
        with db.write() as other:
            assert delete_batch(other, EVENTS, before(db, 1)) is None


def test_jobs_are_found_by_an_index(db: Database) -> None:
    """In the order of their ends, from the place on: what was done before costs nothing."""
    ended_job(db, "old", days=40)
    place = RetentionPlace(kind="events", ended_at=before(db, 99), job_id="", number=0)
    plan = plan_of(db, lambda session: rows._next_jobs(session, EVENTS, place, before(db, 30)))
    assert "ix_jobs_finished" in plan, plan
