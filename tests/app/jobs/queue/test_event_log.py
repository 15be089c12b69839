"""Numbers of events."""

import threading

from sqlalchemy import select

from app.db import Database
from app.jobs.queue import event_log, lifecycle
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Event, Job
from tests.app.jobs.jobs import new_job


def test_events_of_many_writers_have_numbers_without_gaps(db: Database) -> None:
    """Four writers at once: every number from 1 to the counter on the job's row, each once."""
    job, _ = lifecycle.submit(db, new_job())

    def write() -> None:
        for number in range(5):
            with db.write() as session:
                event_log.append(session, job.id, [NewEvent(f"{number} a"), NewEvent(f"{number} b", level="warn")])

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with db.read() as session:
        numbers = session.scalars(select(Event.seq).where(Event.job_id == job.id).order_by(Event.seq)).all()
        count = session.get_one(Job, job.id).events_count
    assert numbers == list(range(1, 42)) and count == 41


def test_nothing_is_appended_for_no_events(db: Database) -> None:
    """The counter, which readers follow, stays as it is."""
    job, _ = lifecycle.submit(db, new_job())
    with db.write() as session:
        event_log.append(session, job.id, [])
        assert session.get_one(Job, job.id).events_count == 1
