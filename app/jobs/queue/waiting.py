"""Positions of waiting jobs in the queue, and estimates of when they start."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Integer, Select, String, bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from app.db import UtcDateTime, now
from app.jobs.queue import gangs, workers
from app.jobs.queue.fair_share import EQUAL, Contender, ProjectShares, Usage
from app.jobs.queue.gangs import Need
from app.jobs.queue.machines import durations, hosts, reservation
from app.jobs.queue.making_room import room_made_for
from app.jobs.queue.queries import waiting_projects
from app.jobs.queue.states import CLAIMABLE, LEASED, TO_RUN
from app.jobs.queue.tables import WAITING, Job, ProjectUsage
from app.jobs.queue.usage import usage_at

#: Positions further back than this are not counted: behind a thousand jobs the exact number does not matter.
COUNTED: Final = 1_000


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a waiting job is: 1 starts next, COUNTED + 1 means "at least so far back"."""

    position: int
    starts_at: datetime | None
    waiting_for: str | None = None  # why the job cannot start, even when it is first


def waits(job: Job) -> bool:
    """Whether the job is in the queue."""
    return job.status in CLAIMABLE and job.desired in TO_RUN


def queue_positions(
    session: Session, project: str, jobs: Sequence[Job], shares: ProjectShares = EQUAL
) -> dict[str, QueuePosition]:
    """Queue positions of those of a project's jobs that wait, by job id; as many queries for a page as for one job."""
    waiting = [job for job in jobs if waits(job)]
    if not waiting:
        return {}

    at, free_in, job_seconds = now(session), _free_in(session), _job_seconds(session, project)
    known = [(name, Contender(name, usage_at(row, at), since)) for name, since, row in session.execute(_CONTENDING)]
    contenders = dict(known)
    usage = contenders[project].usage if project in contenders else Usage()
    numbers, lacking = _numbers(session, project, waiting, contenders, shares), _lacking(session, waiting, at)
    positions = {}
    for job in waiting:
        start = None if job.id in lacking else _start(job, numbers[job.id], at, free_in, job_seconds)
        reason = lacking.get(job.id) or _pause_after_crash(job, at) or _limit_reached(job, shares, usage)
        if reason is None and numbers[job.id] == 1:  # one job of a page at most
            reason = room_made_for(session, job) or _kept_for(session, job, at)
        positions[job.id] = QueuePosition(numbers[job.id], start, reason)
    return positions


_OF_PROJECT: Final = (Job.project == bindparam("project"), WAITING, Job.desired.in_(TO_RUN))
_EARLIER: Final = tuple_(Job.queue_time, Job.id) < tuple_(
    bindparam("queue_time", type_=UtcDateTime), bindparam("id", type_=String)
)
_MOST: Final = bindparam("most", type_=Integer)
#: How many jobs of its project go before a waiting one, and the first jobs of a project, both up to a number of them.
_BEFORE: Final = select(func.count()).select_from(select(Job.id).where(*_OF_PROJECT, _EARLIER).limit(_MOST).subquery())
_FIRST: Final = select(Job.id).where(*_OF_PROJECT).order_by(Job.queue_time, Job.id).limit(_MOST)


def _contending() -> Select[str, datetime, ProjectUsage | None]:
    """Every project that has waiting jobs: the age of its first one, and its usage."""
    projects = waiting_projects()
    first = select(Job.created_at).where(WAITING, Job.project == projects.c.project)
    since = first.order_by(Job.queue_time, Job.id).limit(1).correlate(projects).scalar_subquery()
    query = select(projects.c.project, since.label("since"), ProjectUsage)
    query = query.outerjoin(ProjectUsage, ProjectUsage.project == projects.c.project)
    return query.where(projects.c.project.is_not(None))


def _counted() -> Select[str, int]:
    """How many jobs of every such project wait, up to a number of them."""
    projects = waiting_projects()
    some = select(Job.id).where(WAITING, Job.project == projects.c.project).limit(_MOST).correlate(projects).subquery()
    count = select(func.count()).select_from(some).scalar_subquery()
    return select(projects.c.project, count).where(projects.c.project.is_not(None))


_CONTENDING: Final = _contending()
_COUNTED: Final = _counted()
_RUNNING: Final = select(Job.progress).where(Job.lease_until.is_not(None), Job.status.in_(LEASED)).limit(COUNTED)


def _numbers(
    session: Session, project: str, waiting: Sequence[Job], known: Mapping[str, Contender], shares: ProjectShares
) -> dict[str, int]:
    """Positions by job id: those of the own project that go before, and as many of each other as its share allows."""
    indices = _indices(session, project, waiting)
    contenders = dict(known)
    ours = contenders.pop(project, None)
    if ours is None or not contenders:
        return {job_id: min(1 + index, COUNTED + 1) for job_id, index in indices.items()}

    # Counted so far that the sum is exact, or beyond COUNTED; mostly at the first try.
    most = COUNTED // len(contenders) + 1
    while True:
        counts = dict(session.execute(_COUNTED, {"most": most}).all())
        ahead = {index: _ahead(shares, ours, index, contenders, counts) for index in {*indices.values()}}
        if most > COUNTED or all(jobs[0] + index >= COUNTED or jobs[1] <= most for index, jobs in ahead.items()):
            return {job_id: min(1 + index + ahead[index][0], COUNTED + 1) for job_id, index in indices.items()}
        most *= 4


def _ahead(
    shares: ProjectShares, ours: Contender, index: int, others: Mapping[str, Contender], counts: Mapping[str, int]
) -> tuple[int, int]:
    """How many jobs of others go before ours with this index, and the most that would be of one project."""
    allowed = {name: shares.ahead(ours, index, other) for name, other in others.items()}
    return sum(min(jobs, counts.get(name, 0)) for name, jobs in allowed.items()), max(allowed.values())


def _indices(session: Session, project: str, waiting: Sequence[Job]) -> dict[str, int]:
    """How many jobs of the project go before each, up to COUNTED, from one query: the project's first, or a count."""
    given: dict[str, Any] = {"project": project, "most": COUNTED}
    if len(waiting) > 1:
        indices = {job_id: index for index, job_id in enumerate(session.scalars(_FIRST, given))}
        return {job.id: indices.get(job.id, COUNTED) for job in waiting}

    (job,) = waiting
    before = given | {"queue_time": job.queue_time, "id": job.id}
    return {job.id: session.scalars(_BEFORE, before).one()}


def _free_in(session: Session) -> list[float | None]:
    """Seconds until each busy device is free again, by its job's last report; None (last) where that is unknown."""
    left = [(progress or {}).get("eta_seconds") for progress in session.scalars(_RUNNING)]
    return sorted(left, key=lambda seconds: (seconds is None, seconds))


def _job_seconds(session: Session, project: str) -> float | None:
    """Seconds that a job takes: the median of the project's last finished ones."""
    known = durations(session, project)
    return statistics.median(known) if known else None


def _lacking(session: Session, waiting: Sequence[Job], at: datetime) -> dict[str, str]:
    """What no worker alive has, or no gang of them, by job id."""
    on_one = [job for job in waiting if job.machines == 1]
    lacking = workers.lacking(session, on_one, at=at) if on_one else {}
    if len(on_one) < len(waiting):
        able = hosts(session, at)
        reasons = ((job.id, gangs.lacking(able, _need(job))) for job in waiting if job.machines > 1)
        lacking |= {job_id: reason for job_id, reason in reasons if reason is not None}
    return lacking


def _need(job: Job) -> Need:
    return Need(job.machines, job.devices // job.machines, job.device)


def _limit_reached(job: Job, shares: ProjectShares, usage: Usage) -> str | None:
    if shares.allows(job.project, usage, job.devices):
        return None
    limit = shares.limit(job.project)
    if job.devices > (limit or 0):
        return f"a higher limit: this project may use {limit} devices at once (PERMAFROST_PROJECT_DEVICES)"
    return f"the end of other jobs: this project may use {limit} devices at once, and uses {usage.running}"


def _kept_for(session: Session, job: Job, at: datetime) -> str | None:
    """Which worker keeps devices for the first job of the queue, where no worker has enough of them free."""
    if job.machines > 1:
        names = sorted(each.machine.name for each in gangs.keep(hosts(session, at), _need(job)))
        return f"{job.devices} devices at once: {' and '.join(names)} keep those that become free" if names else None
    found = reservation(session, at, devices=job.devices, device=job.device) if job.devices > 1 else None
    if found is None:
        return None
    return f"{job.devices} devices at once: {found.machine.name} keeps those that become free for it"


def _pause_after_crash(job: Job, at: datetime) -> str | None:
    if job.not_before is None or job.not_before <= at:
        return None
    return f"the end of a pause after a crash, at {job.not_before:%Y-%m-%dT%H:%M:%SZ}"


def _start(
    job: Job, position: int, at: datetime, free_in: Sequence[float | None], job_seconds: float | None
) -> datetime | None:
    """When the job starts if the jobs ahead take the devices in turns; None where a duration is not known."""
    if not free_in or position > COUNTED:
        return None

    rounds, turn = divmod(position - 1, len(free_in))
    wait = free_in[turn] if free_in[turn] is not None else job_seconds
    if wait is None or (rounds and job_seconds is None):
        return None

    start = at + timedelta(seconds=wait + rounds * (job_seconds or 0.0))
    return max(start, job.not_before) if job.not_before is not None else start
