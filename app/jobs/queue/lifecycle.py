"""The only door to a job's status: every move is one compare-and-swap in one transaction, by the database's clock.

A worker owns a job through a `Lease`, whose attempt number is the fencing token: once the lease has run out or the job
has moved on, nothing that its owner writes matches a row any more.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import Database, now
from app.errors import Conflict
from app.exports import queue as exports
from app.jobs.queue import checkpoints, claims, event_log, gang_rows, moves, usage
from app.jobs.queue.attempt import AttemptUpdates, Lease, LeaseLost, Outcome
from app.jobs.queue.attempt_rows import changed_columns, store_outcome, store_updates
from app.jobs.queue.early_stopping import find_worse
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.fair_share import AGING, EQUAL, ProjectShares
from app.jobs.queue.idempotency import earlier_job
from app.jobs.queue.making_room import STEP_REACHED, event_of_release, wish
from app.jobs.queue.new_jobs import Protect, store
from app.jobs.queue.offers import Offer
from app.jobs.queue.queries import find_job, waiting_jobs
from app.jobs.queue.states import CLAIMABLE, LEASED, TERMINAL, to_run
from app.jobs.queue.tables import Job

#: Seconds until a gang is tried again that did not come together.
GANG_PAUSE: Final = 1.0
#: Waiting jobs that maintenance hears of: a worker starts no more than it has devices for.
LISTED: Final = 1_000


# ---- the requester's side


def submit(
    db: Database,
    job: Job,
    *,
    retried: bool = False,
    active_limit: int | None = None,
    protect: Protect = lambda session, job: None,
    aging: float = AGING,
    destinations: Sequence[str] = (),
) -> tuple[Job, bool]:
    """Stores a new job and returns it, or the one that the same request made before (and True).

    `retried` says that the client repeats a request whose answer it did not see. Without an idempotency key, an equal
    request of the last minutes is then taken to be the same one: the SDK retries POSTs without sending a key.
    `active_limit` is how many jobs of a project may be under way, this one included. `protect` keeps the files and
    models that the job needs from being deleted until it is stored, and raises where one is gone already. `aging` is
    how many seconds of waiting a point of priority is worth. `destinations` get the result once there is one.
    """

    def once() -> tuple[Job, bool]:
        with db.write() as session:
            printed = job.fingerprint
            earlier = earlier_job(session, job.project, key=job.idempotency_key, fingerprint=printed, retried=retried)
            if earlier is not None:
                return earlier, True

            store(session, [job], active_limit=active_limit, protect=protect, aging=aging)
            for url in destinations:
                exports.add(session, project=job.project, job_id=job.id, destination=url, status="waiting")
            session.refresh(job)
            return job, False

    try:
        return once()
    except IntegrityError:
        return once()  # two requests with one key at the same moment: the other one has made the job, and is found now


def cancel(db: Database, project: str, job_id: str) -> Job:
    """Cancels at once, in any state: the worker finds its lease gone and ends the trainer. Idempotent."""
    with db.write() as session:
        job = find_job(session, project, job_id, lock=True)
        if job.status == "cancelled":
            return job
        moved = moves.cancel(session, job_id)
        return _confirm(session, job, moved=moved, verb="cancelled", event=NewEvent("Job cancelled"))


def cancel_jobs_of_sweep(session: Session, project: str, sweep_id: str) -> None:
    """Cancels every job of the sweep that has not ended, in the caller's transaction."""
    mine = select(Job.id).where(Job.project == project, Job.sweep_id == sweep_id, Job.status.not_in(TERMINAL))
    for job_id in session.scalars(mine.order_by(Job.created_at, Job.id).with_for_update()).all():
        if moves.cancel(session, job_id):
            event_log.append(session, job_id, [NewEvent("Job cancelled with its sweep")])


def pause(db: Database, project: str, job_id: str) -> Job:
    """Pauses a waiting job at once; a running one saves its state first (`pausing`). Idempotent."""
    with db.write() as session:
        job = find_job(session, project, job_id, lock=True)
        if job.status in {"pausing", "paused"}:
            return job
        target = "paused" if job.status in CLAIMABLE else "pausing"
        moved = moves.move(session, job_id, to=target, desired="pause")
        return _confirm(session, job, moved=moved, verb="paused", event=NewEvent(f"Job {target}"))


def resume(db: Database, project: str, job_id: str) -> Job:
    """Queues a paused job again, to go on from its last checkpoint; a pausing one keeps running. Idempotent."""
    with db.write() as session:
        job = find_job(session, project, job_id, lock=True)
        if job.status in CLAIMABLE | {"running"}:
            return job
        target = "running" if job.status == "pausing" else "queued"
        moved = moves.move(session, job_id, to=target, source=job.status, desired=to_run(job.machines))
        return _confirm(session, job, moved=moved, verb="resumed", event=NewEvent("Job resumed"))


def _confirm(session: Session, job: Job, *, moved: bool, verb: str, event: NewEvent) -> Job:
    """The job after a requester's move, with its event. Raises Conflict where the move was not possible."""
    session.refresh(job)
    if not moved:
        ended = "has already ended" if job.ended else "is"
        raise Conflict(f"job {job.id} cannot be {verb}: it {ended} ({job.status})")
    event_log.append(session, job.id, [event])
    session.refresh(job)
    return job


# ---- the worker's side


def claim(
    db: Database, *, worker: str, seconds: float, offer: Offer | None = None, shares: ProjectShares = EQUAL
) -> Lease | None:
    """Takes the next job for `seconds`; None when none waits for this worker.

    The job id in the message that woke the worker is ignored: the next job is the best one of the project that has
    least by its weight. Jobs that need more devices, or others, than the worker's `offer` has are not for it; for one
    that needs more than are free anywhere, one worker keeps them. Without an offer it is one free slot on the CPU.
    """
    for look in range(1, claims.LOOKS + 1):
        try:
            with db.write() as session:
                at = now(session)
                chosen = claims.choose(session, worker, offer or Offer(), shares, at, look=look)
                return _start(session, chosen, worker, seconds, at) if chosen else None
        except claims.OrderChanged:
            continue
    raise AssertionError("the final look takes what it finds")


def _start(session: Session, chosen: claims.NextJob, worker: str, seconds: float, at: datetime) -> Lease | None:
    job, gang = chosen.job, chosen.gang
    attempt = job.attempt + 1
    leased = {"lease_owner": worker, "lease_until": at + timedelta(seconds=seconds), "not_before": None}
    begun = {"attempt": attempt, "attempt_step": STEP_REACHED, "started_at": job.started_at or at}
    counted = {"events_count": job.events_count + 1}
    changes = moves.NO_LEASE | leased | begun | counted
    if not moves.move(session, job.id, to="running", locked=job.status, at=at, **changes):
        return None

    started = "Job started" if attempt == 1 else f"Job started again, attempt {attempt}"
    event_log.store(session, job.id, [NewEvent(started)], after=job.events_count, at=at)
    lease = Lease(
        job.id, attempt, worker, seconds, chosen.devices, gang.product if gang else job.device, machines=job.machines
    )
    if gang:
        gang_rows.make_places(session, lease, gang, at)
    return lease


def beat(db: Database, lease: Lease, updates: AttemptUpdates | None = None) -> str:
    """Extends the lease, stores the updates, and returns what the job should do: "run", "pause" or "yield".

    Raises LeaseLost when the job does not belong to this lease any more, or when its sweep stops it by these updates.
    """
    with db.write() as session:
        at = now(session)
        changes = {"lease_until": at + timedelta(seconds=lease.seconds)} | changed_columns(session, lease, updates)
        statement = update(Job).where(*moves.lease_guard(lease, at)).values(changes)
        statement = statement.returning(Job.desired, Job.preempted_for, Job.points_count, Job.early_stopping)
        row = session.execute(statement).one_or_none()
        if row is None:
            raise moves.lost(session, lease)
        if updates:
            store_updates(session, lease, updates, last_point=row.points_count, at=at)
        stopped = bool(row.early_stopping and updates and updates.evaluated) and _stop_early(session, lease)
    if stopped:
        raise LeaseLost(lease, "cancelled")
    return wish(row.desired, row.preempted_for)


def _stop_early(session: Session, lease: Lease) -> bool:
    """Whether the job's sweep has stopped it now, because it is worse than others at the same step."""
    job = session.get_one(Job, lease.job_id, populate_existing=True)
    worse = find_worse(session, job)
    if worse is None:
        return False
    if not moves.cancel(session, job.id, early_stopping={**(job.early_stopping or {}), **worse.to_json()}):
        return False
    event_log.append(
        session, job.id, [NewEvent(f"Job cancelled: {worse.reason}", level="warn", data=worse.to_json()["stopped"])]
    )
    return True


def drop_checkpoints(db: Database, lease: Lease, *, kept: Collection[int]) -> list[str]:
    """Drops the models of the job's checkpoints, except those of the `kept` steps and those in use.

    Returns the blobs that nothing needs any more. Raises LeaseLost.
    """
    with db.write() as session:
        owned = select(Job.id).where(*moves.lease_guard(lease, now(session))).with_for_update()
        if session.scalar(owned) is None:
            raise moves.lost(session, lease)
        return checkpoints.drop(session, lease.job_id, kept=kept)


def finish(db: Database, lease: Lease, outcome: Outcome) -> None:
    """Ends the job: status, evidence and model in one transaction. Repeating it changes nothing.

    Raises LeaseLost when the job was cancelled, taken over, or ended in another way.
    """
    with db.write() as session:
        at = now(session)
        policy: dict[str, Any] = {"freeze_policy": outcome.freeze_policy} if outcome.freeze_policy else {}
        moved = moves.move(
            session,
            lease.job_id,
            *moves.lease_guard(lease, at),
            to=outcome.status,
            at=at,
            error=outcome.error,
            finished_at=at,
            **moves.NO_LEASE,
            fine_tuned_model=outcome.model.id if outcome.model else None,
            result_files=[file.id for file in outcome.files],
            trained_tokens=outcome.trained_tokens,
            **policy,
        )
        if moved:
            store_outcome(session, lease, outcome, at=at)
        elif not _ended_before(session, lease, outcome.status):
            raise moves.lost(session, lease)


def _ended_before(session: Session, lease: Lease, status: str) -> bool:
    """Whether this attempt has ended the job in the same way already."""
    row = session.execute(select(Job.attempt, Job.status).where(Job.id == lease.job_id)).one_or_none()
    return row is not None and row.attempt == lease.attempt and row.status == status


def release(db: Database, lease: Lease) -> str:
    """Gives back a job whose state was saved: paused if that was requested, else queued for the next worker.

    Returns the new status. Not counted as a crash.
    """
    with db.write() as session:
        job = session.get_one(Job, lease.job_id, with_for_update=True)
        target = "paused" if job.desired == "pause" else "queued"
        released = event_of_release(session, job, target)
        if not moves.give_back(session, job, moves.lease_guard(lease, now(session)), to=target):
            raise moves.lost(session, lease)
        event_log.append(session, job.id, [released])
        return target


def lose(db: Database, lease: Lease, *, limit: int) -> str:
    """Gives back a job whose device failed; the job fails once `limit` devices failed under it. Not a crash.

    Returns the new status.
    """
    with db.write() as session:
        job = session.get_one(Job, lease.job_id, with_for_update=True)
        guard, losses = moves.lease_guard(lease, now(session)), job.losses + 1
        target = "failed" if losses >= limit else "paused" if job.desired == "pause" else "queued"

        if target == "failed":
            message = f"failed after {losses} devices were lost under it; look at the devices, or at what the job does"
            moved, event = moves.fail(session, job, guard, {"code": "device_lost", "message": message}, losses=losses)
        else:
            moved = moves.give_back(session, job, guard, to=target, losses=losses)
            event = NewEvent(f"The device was lost; job {target} again", level="warn")

        if not moved:
            raise moves.lost(session, lease)
        event_log.append(session, job.id, [event])
        return target


def postpone(db: Database, lease: Lease, reason: str) -> str:
    """Gives back a job for which no gang came together, to be tried again in a moment. Not counted as a crash."""
    with db.write() as session:
        job, at = session.get_one(Job, lease.job_id, with_for_update=True), now(session)
        job.lost_members += 1
        target = "paused" if job.desired == "pause" else "queued"
        wait = at + timedelta(seconds=GANG_PAUSE)
        if not moves.give_back(session, job, moves.lease_guard(lease, at), to=target, not_before=wait):
            raise moves.lost(session, lease)
        event_log.append(session, job.id, [NewEvent(f"No gang came together: {reason}; job {target} again", "warn")])
        return target


def pause_attempt(db: Database, lease: Lease, reason: str) -> str:
    """Pauses a job that cannot go on until a person has acted. Its state is saved; not counted as a crash."""
    with db.write() as session:
        job = session.get_one(Job, lease.job_id, with_for_update=True)
        if not moves.give_back(session, job, moves.lease_guard(lease, now(session)), to="paused", desired="pause"):
            raise moves.lost(session, lease)
        event_log.append(session, job.id, [NewEvent(f"Job paused: {reason}", level="error")])
        return "paused"


def crash(
    db: Database, lease: Lease, reason: str, *, log_tail: Sequence[str] = (), limit: int, member_lost: bool = False
) -> str:
    """Records that a trainer died: the job is queued again after a while, or fails after `limit` crashes.

    `member_lost` says that a worker of its gang was not heard of any more. Returns the new status.
    """
    with db.write() as session:
        job = session.get_one(Job, lease.job_id, with_for_update=True)
        job.lost_members += member_lost
        guard = moves.lease_guard(lease, now(session))
        if not moves.crash(session, job, guard, reason=reason, tail=log_tail, limit=limit):
            raise moves.lost(session, lease)
        session.refresh(job)
        return job.status


def recover(db: Database, *, limit: int) -> list[str]:
    """Takes over jobs whose lease has run out, and returns the ids of jobs that wait for a worker, LISTED at most.

    Safe to run anywhere at any time: each takeover is a compare-and-swap, so two callers at once do it once.
    """
    with db.write() as session:
        at = now(session)
        expired = select(Job).where(Job.status.in_(LEASED), Job.lease_until < at).with_for_update(skip_locked=True)
        for job in session.scalars(expired).all():
            guard = [Job.id == job.id, Job.attempt == job.attempt, Job.lease_until < at]
            job.takeovers += moves.crash(session, job, guard, reason="its worker stopped answering", limit=limit)

    usage.recount(db)
    with db.read() as session:
        return waiting_jobs(session, now(session), most=LISTED)
