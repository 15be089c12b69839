"""One move of a job's status: the states that it may join, the guard, and what goes with it."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.db import Database, now
from app.jobs.queue import lifecycle, moves
from app.jobs.queue.states import MOVES
from app.jobs.queue.tables import Job
from tests.app.jobs.jobs import claim, new_job


def stored(db: Database) -> str:
    return lifecycle.submit(db, new_job())[0].id


def row(db: Database, job_id: str) -> Job:
    with db.read() as session:
        return session.get_one(Job, job_id)


@pytest.mark.parametrize("target", sorted(set(MOVES) - MOVES["queued"]))
def test_a_move_that_the_table_lacks_changes_nothing(db: Database, target: str) -> None:
    """From `queued`, for one; the row keeps its version."""
    job_id = stored(db)
    with db.write() as session:
        assert not moves.move(session, job_id, to=target)
    assert (row(db, job_id).status, row(db, job_id).version) == ("queued", 1)


def test_a_guard_that_does_not_match_changes_nothing(db: Database) -> None:
    """A lease that has run out is no lease: neither a finish nor a give-back of its owner is taken."""
    stored(db)
    lease = claim(db)
    with db.write() as session:
        later = now(session) + timedelta(seconds=lease.seconds + 1)
        assert not moves.move(session, lease.job_id, *moves.lease_guard(lease, later), to="failed")
        assert moves.lost(session, lease).status == "running"


def test_a_job_that_is_given_back_has_no_lease(db: Database) -> None:
    """Whatever the reason; a crash waits for its back-off, and fails the job once there were too many."""
    stored(db)
    for crashes, status in ((1, "queued"), (2, "failed")):
        lease = claim(db)
        with db.write() as session:
            job = session.get_one(Job, lease.job_id, with_for_update=True)
            guard = moves.lease_guard(lease, now(session))
            assert moves.crash(session, job, guard, reason="its device melted", limit=2)
        found = row(db, lease.job_id)
        assert (found.status, found.crashes, found.lease_owner, found.lease_until) == (status, crashes, None, None)
        with db.write() as session:
            session.get_one(Job, lease.job_id).not_before = None
    assert found.error is not None and "failed after 2 crashes; the last: its device melted" in found.error["message"]


def test_a_pausing_job_can_be_cancelled_or_given_back_to_rest(db: Database) -> None:
    """`pausing` goes to `queued` by way of `running`, which it was all along."""
    stored(db)
    lease = claim(db)
    lifecycle.pause(db, "default", lease.job_id)
    with db.write() as session:
        job = session.scalars(select(Job).where(Job.id == lease.job_id).with_for_update()).one()
        assert moves.give_back(session, job, moves.lease_guard(lease, now(session)), to="queued")
    assert row(db, lease.job_id).status == "queued"
    with db.write() as session:
        assert moves.cancel(session, lease.job_id)
    assert row(db, lease.job_id).finished_at is not None
