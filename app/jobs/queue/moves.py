"""The moves of a job's status, within the transaction of the caller, which is the lifecycle alone.

Every move is one UPDATE that names the status, and the lease where there is one, from which it goes: a row that has
moved on meanwhile does not match.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.exports import queue as exports
from app.jobs.queue import event_log, gang_rows, usage
from app.jobs.queue.attempt import Lease, LeaseLost
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.states import LEASED, MOVES, TERMINAL
from app.jobs.queue.tables import Job
from app.webhooks.events import announce

#: Every move out of a worker's hands gives the lease up.
NO_LEASE: Final[dict[str, Any]] = {"lease_owner": None, "lease_until": None, "preempted_for": None}

Guard = Sequence[ColumnElement[bool]]


def move(
    session: Session,
    job_id: str,
    *guard: ColumnElement[bool],
    to: str,
    source: str | None = None,
    locked: str | None = None,
    at: datetime | None = None,
    **changes: Any,
) -> bool:
    """Whether the job was in a state from which it may move `to` there, and the guard matched.

    Its project's usage changes with it, wherever a lease begins or ends. `locked` is the status of a job that this
    transaction has locked already, and `at` the time that it has asked the database for: both spare a round trip.
    """
    before = locked or session.scalar(select(Job.status).where(Job.id == job_id).with_for_update())
    if before is None or to not in MOVES[before] or source not in (None, before):
        return False

    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status == before, *guard)
        .values(status=to, version=Job.version + 1, **changes)
        .returning(Job.project, Job.devices, Job.machines)
        .execution_options(synchronize_session=False)
    )
    moved = session.execute(statement).one_or_none()
    if moved is None:
        return False
    usage.note(session, moved.project, moved.devices * ((to in LEASED) - (before in LEASED)), at=at)
    if moved.machines > 1 and to not in LEASED:
        gang_rows.disband(session, job_id)
    announce(session, f"fine_tuning.job.{to}", project=moved.project, object_id=job_id)
    if to in TERMINAL:
        exports.release(session, job_id, to)
    return True


def cancel(session: Session, job_id: str, **changes: Any) -> bool:
    changes |= {"desired": "cancel", "finished_at": now(session)}
    return move(session, job_id, to="cancelled", **changes, **NO_LEASE)


def lease_guard(lease: Lease, at: datetime) -> list[ColumnElement[bool]]:
    """The condition of every write by a worker: the lease is still valid."""
    return [Job.id == lease.job_id, Job.attempt == lease.attempt, Job.status.in_(LEASED), Job.lease_until > at]


def lost(session: Session, lease: Lease) -> LeaseLost:
    return LeaseLost(lease, session.scalar(select(Job.status).where(Job.id == lease.job_id)) or "gone")


def give_back(session: Session, job: Job, guard: Guard, *, to: str, **changes: Any) -> bool:
    if job.status == "pausing" and to == "queued":
        # MOVES has no such move: a pausing job whose pause was taken back was running all along.
        move(session, job.id, *guard, to="running", source="pausing")
    if job.status == "running" and to == "paused":
        move(session, job.id, *guard, to="pausing", source="running")
    return move(session, job.id, *guard, to=to, **NO_LEASE, **changes)


def fail(
    session: Session, job: Job, guard: Guard, error: dict[str, Any], data: dict[str, Any] | None = None, **changes: Any
) -> tuple[bool, NewEvent]:
    changes |= {"error": error | {"param": None}, "finished_at": now(session)}
    moved = move(session, job.id, *guard, to="failed", **changes, **NO_LEASE)
    return moved, NewEvent(error["message"], level="error", data=data)


def crash(session: Session, job: Job, guard: Guard, *, reason: str, tail: Sequence[str] = (), limit: int) -> bool:
    """Whether the crash was recorded; the job's own `retries` goes before the service's `limit`."""
    crashes = job.crashes + 1
    limit = limit if job.retries is None else job.retries + 1
    data = {"attempt": job.attempt, "crashes": crashes, "log_tail": list(tail)}

    if crashes >= limit:
        message = f"failed after {crashes} crash{'es' if crashes > 1 else ''}; the last: {reason}"
        error = {"code": "trainer_crashed", "message": message, "log_tail": list(tail)}
        moved, event = fail(session, job, guard, error, data, crashes=crashes)
    else:
        target = "paused" if job.desired == "pause" else "queued"
        wait = timedelta(seconds=min(2.0**crashes, 60.0))
        moved = give_back(session, job, guard, to=target, crashes=crashes, not_before=now(session) + wait)
        event = NewEvent(f"Attempt {job.attempt} ended: {reason}; job {target} again", level="warn", data=data)

    if moved:
        event_log.append(session, job.id, [event])
    return moved
