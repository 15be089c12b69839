"""Requests running jobs to make room for a waiting one, and says so; the trainer saves its state at its next step.

A request is a column of the running job's row. Its worker reads it as it reads a pause; the job goes back into the
queue, and its crashes and retries stay as they are.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue import claims, event_log, gangs, machines, workers
from app.jobs.queue.claims import Candidate
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.gangs import GangHost
from app.jobs.queue.machines import running_jobs, worker_of
from app.jobs.queue.offers import Offer
from app.jobs.queue.preemption import Balance, Host, Stoppable, Waiting, jobs_to_stop
from app.jobs.queue.queries import waiting_projects
from app.jobs.queue.reservations import Machine
from app.jobs.queue.states import LEASED, RUN, TO_RUN
from app.jobs.queue.tables import WAITING, GangMember, Job, ProjectUsage, Worker
from app.jobs.queue.usage import usage_at

#: The step that a job has reached, over all its attempts.
STEP_REACHED: Final = func.coalesce(Job.progress["step"].as_integer(), 0)

_MAKES_ROOM: Final = (Job.lease_until.is_not(None), Job.status.in_(LEASED), Job.preempted_for.is_not(None))


def wish(desired: str, preempted_for: str | None) -> str:
    """What a running job should do: run, pause, cancel, or yield: save its state and go back into the queue.

    Not computed by the database: SQLite 3.40 answers `RETURNING x IS NOT NULL` with true for a null.
    """
    if desired not in TO_RUN:
        return desired
    return RUN if preempted_for is None else "yield"


def make_room(db: Database, shares: ProjectShares, *, most: int) -> list[str]:
    """Requests jobs to make room for the first waiting one, if any should; returns their ids.

    `most` is how often a job may have to make room. Any number of workers may do this at the same time: a waiting job
    for which room is being made already gets no more.
    """
    with db.read() as session:
        waiting, jobs = _choose(session, shares, now(session), most)
    if waiting is None or not jobs:
        return []
    with db.write() as session:
        return _request(session, waiting, jobs)


def event_of_release(session: Session, job: Job, target: str) -> NewEvent:
    """Why a job whose state was saved is paused, or queued again."""
    if target == "paused":
        return NewEvent("Job paused")
    if job.preempted_for is None:
        return NewEvent("Worker is stopping; job queued again")
    other, data = _named(session, job)
    return NewEvent(f"Job has made room for {other}; job queued again", data=data)


def room_made_for(session: Session, job: Job) -> str | None:
    """Which job saves its state so that this one can start, if one does."""
    makers = session.execute(select(Job.id, Job.project).where(Job.preempted_for == job.id, *_MAKES_ROOM)).all()
    if not makers:
        return None
    names = sorted(maker.id if maker.project == job.project else "a job of another project" for maker in makers)
    return f"the end of {', '.join(names)}, which makes room for it"


# ---- which jobs


def _choose(
    session: Session, shares: ProjectShares, at: datetime, most: int
) -> tuple[Waiting | None, Sequence[Stoppable]]:
    """The first waiting job that cannot start, and the jobs that make room for it.

    A project at its limit is passed over, as claims do, unless jobs of its own make room.
    """
    alive = session.scalars(select(Worker).where(Worker.seen_at > at - workers.PRESENT)).all()
    found = claims.heads(session, _largest(alive), shares, at)
    if not found:
        return None, ()

    first = {each.contender.project: each for each in found}
    balance = _balance(session, shares, at, devices=sum(_slots(worker) for worker in alive))
    stoppable, able = _stoppable(session, at, most), machines.hosts(session, at)
    for contender in shares.in_order(each.contender for each in found):
        job = first[contender.project]
        waiting = _waiting(session, job, shares)
        hosts = _gang_hosts(able, job, stoppable) if job.machines > 1 else _hosts(session, alive, job, at, stoppable)
        jobs = jobs_to_stop(waiting, hosts, balance)
        if jobs or not waiting.over:
            return waiting, jobs
    return None, ()


def _waiting(session: Session, candidate: Candidate, shares: ProjectShares) -> Waiting:
    job, usage = session.get_one(Job, candidate.job_id), candidate.contender.usage
    limit = shares.limit(job.project)
    over = 0 if limit is None else max(0, usage.running + job.devices - limit)
    return Waiting(job.id, job.project, job.devices, job.priority, (job.queue_time, job.id), over, job.machines)


def _balance(session: Session, shares: ProjectShares, at: datetime, *, devices: int) -> Balance:
    rows = session.scalars(select(ProjectUsage).where(ProjectUsage.running > 0)).all()
    usages = {row.project: usage_at(row, at) for row in rows}
    projects = waiting_projects()
    waiting = select(projects.c.project, ProjectUsage)
    waiting = waiting.outerjoin(ProjectUsage, ProjectUsage.project == projects.c.project)
    for project, row in session.execute(waiting.where(projects.c.project.is_not(None))):
        usages.setdefault(project, usage_at(row, at))
    return Balance(shares, usages, devices)


def _largest(alive: Sequence[Worker]) -> Offer:
    """What one worker or another could give to a job once its devices are free."""
    devices: dict[str, int] = {}
    for worker in alive:
        for product, count in _products(worker).items():
            devices[product] = max(devices.get(product, 0), min(count, worker.devices))
    return Offer(devices, {}, gangs=True)


def _hosts(
    session: Session, alive: Sequence[Worker], job: Candidate, at: datetime, stoppable: dict[str, list[Stoppable]]
) -> list[Host]:
    """Workers that could run the waiting job. Rows do not say which of a worker's devices a job has: where these are
    of several kinds and the waiting job needs one kind, none of its jobs is stopped.
    """
    running = running_jobs(session, at)
    hosts = []
    for worker in alive:
        products = _products(worker)
        capacity = worker.devices if job.device is None else workers.most_of(job.device, worker.devices, products)
        free = _slots(worker) - sum(each.devices for each in running[worker.id])
        known = len(products) == 1 or (job.device is None and job.devices == 1)
        machine = Machine(worker.id, capacity, max(0, free), running[worker.id])
        if capacity >= job.devices:
            hosts.append(Host(machine, stoppable.get(worker.id, ()) if known else ()))
    return hosts


def _gang_hosts(able: Sequence[GangHost], job: Candidate, stoppable: dict[str, list[Stoppable]]) -> list[Host]:
    """Workers that could have a place of the waiting gang, as it counts their devices when it forms."""
    one_product = {host.name for host in able if len(host.products) == 1}
    hosts = []
    for kind, group in gangs.groups(able, job.need).items():
        for each in group:
            free = each.capacity - sum(running.devices for running in each.running)
            jobs = stoppable.get(each.name, ()) if each.name in one_product else ()
            hosts.append(Host(replace(each, free=free), jobs, kind))
    return hosts


def _stoppable(session: Session, at: datetime, most: int) -> dict[str, list[Stoppable]]:
    """By worker, the running jobs that have got further in this attempt than ever before, and are not done yet.

    A gang is there for each of its workers.
    """
    columns = (Job.id, Job.attempt, Job.project, Job.devices, Job.machines, Job.priority, Job.queue_time)
    query = select(*columns, Job.lease_owner, Job.progress, Job.attempt_step).where(
        Job.lease_until > at,
        Job.status == "running",
        Job.desired.in_(TO_RUN),
        Job.preempted_for.is_(None),
        Job.preemptions < most,
    )
    rows = session.execute(query).all()
    places = _places(session, [row.id for row in rows if row.machines > 1])
    found: dict[str, list[Stoppable]] = {}
    for row in rows:
        step, total = (row.progress or {}).get("step") or 0, (row.progress or {}).get("total_steps")
        if step > row.attempt_step and (total is None or step < total):
            on = places[row.id] if row.machines > 1 else {worker_of(row.lease_owner or ""): row.devices}
            job = Stoppable(row.id, row.attempt, row.project, on, row.priority, (row.queue_time, row.id))
            for worker in on:
                found.setdefault(worker, []).append(job)
    return found


def _places(session: Session, gang_jobs: Sequence[str]) -> dict[str, dict[str, int]]:
    """The devices of running gangs by job and worker."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    if gang_jobs:
        columns = (GangMember.job_id, GangMember.worker, GangMember.devices)
        for job_id, worker, devices in session.execute(select(*columns).where(GangMember.job_id.in_(gang_jobs))):
            found[job_id][worker] = devices
    return found


def _products(worker: Worker) -> dict[str, int]:
    """Devices by product; a worker of an earlier version has not said which."""
    return dict(worker.products) or {worker.kind: worker.devices}


def _slots(worker: Worker) -> int:
    return sum(_products(worker).values())


# ---- the request


def _request(session: Session, waiting: Waiting, jobs: Sequence[Stoppable]) -> list[str]:
    """Requests all of these jobs to make room, or none where anything has changed since they were chosen.

    Nor where another transaction has one of their rows, as each heartbeat does: the next round requests it again.
    """
    still = select(Job.id).where(Job.id == waiting.id, WAITING, Job.desired.in_(TO_RUN))
    if session.scalar(still.with_for_update(skip_locked=True)) is None or session.scalar(
        select(func.count()).where(Job.preempted_for == waiting.id, *_MAKES_ROOM)
    ):
        return []
    ids = [job.id for job in jobs]
    unchanged = (Job.status == "running", Job.desired.in_(TO_RUN), Job.preempted_for.is_(None))
    query = select(Job.id, Job.attempt).where(Job.id.in_(ids), *unchanged).order_by(Job.id)
    locked = session.execute(query.with_for_update(skip_locked=True)).all()
    if {(row.id, row.attempt) for row in locked} != {(job.id, job.attempt) for job in jobs}:
        return []

    changes = {"preempted_for": waiting.id, "preemptions": Job.preemptions + 1, "version": Job.version + 1}
    session.execute(update(Job).where(Job.id.in_(ids)).values(changes).execution_options(synchronize_session=False))
    for job in jobs:
        other, data = _named(session, session.get_one(Job, job.id, populate_existing=True))
        event_log.append(session, job.id, [NewEvent(f"Job saves its state, to make room for {other}", data=data)])
    return ids


def _named(session: Session, job: Job) -> tuple[str, dict[str, Any] | None]:
    """The job for which this one makes room, in words and as data. Ids of other projects' jobs are theirs."""
    other = session.get(Job, job.preempted_for)
    if other is None or other.project != job.project:
        return "a job of another project, which has less than its share of the devices", None
    return f"{other.id}, which has priority {other.priority}", {"preempted_for": other.id}
