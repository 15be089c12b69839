"""Chooses the job that a worker gets next: of the project that has least by its weight, that project's best job."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, case, literal, or_, select
from sqlalchemy.orm import Session, aliased

from app.db import Database, UtcDateTime, now
from app.jobs.queue import gang_rows, gangs, usage
from app.jobs.queue.attempt import Lease
from app.jobs.queue.fair_share import Contender, ProjectShares
from app.jobs.queue.gangs import Gang, Need
from app.jobs.queue.machines import bound_of, hosts, reservation, worker_of
from app.jobs.queue.offers import Offer, OfferKey
from app.jobs.queue.queries import waiting_projects
from app.jobs.queue.reservations import Reservation
from app.jobs.queue.states import LEASED, TO_RUN
from app.jobs.queue.tables import WAITING, GangMember, Job, ProjectUsage

#: How often a worker looks at the queue before it takes what it chose although the order has changed meanwhile.
LOOKS: Final = 4
#: More devices than any project has.
UNLIMITED: Final = 2**31 - 1

_DUE: Final = or_(Job.not_before.is_(None), Job.not_before <= bindparam("at", type_=UtcDateTime))
#: What a claim needs of a job.
_COLUMNS: Final = (
    Job.id,
    Job.project,
    Job.status,
    Job.attempt,
    Job.devices,
    Job.machines,
    Job.device,
    Job.started_at,
    Job.events_count,
)
#: And of its project: columns, since an object for each project of each claim costs more than the query.
_USAGE: Final = (ProjectUsage.running, ProjectUsage.smoothed, ProjectUsage.at)
Statement = Select[*tuple[Any, ...]]


class OrderChanged(Exception):
    """Others have claimed jobs meanwhile, so another project may be the next: look again."""


@dataclass(frozen=True, slots=True)
class NextJob:
    """The next job, and who runs it together with this worker, if it is on several machines."""

    job: Row[Any]
    gang: Gang | None = None

    @property
    def devices(self) -> int:
        """Devices that it needs of this worker."""
        return self.gang.devices if self.gang else int(self.job.devices)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A project's first job that the worker could run once all its devices are free."""

    contender: Contender
    job_id: str
    devices: int
    device: str | None
    machines: int
    used: bool  # whether the project has a row of its usage

    @property
    def need(self) -> Need:
        return Need(self.machines, self.devices // self.machines, self.device)


@dataclass(slots=True)
class KeptDevices:
    """What is kept for the first job of the queue that cannot start: on this worker, and on which workers in all."""

    here: Reservation | None = None
    workers: frozenset[str] = frozenset()

    def admits(self, session: Session, chosen: NextJob) -> bool:
        """Whether the job would delay that one by nothing."""
        job = chosen.job
        return self.here is None or self.here.admits(chosen.devices, bound_of(session, job.id, job.project))


def choose(
    session: Session, worker: str, offer: Offer, shares: ProjectShares, at: datetime, *, look: int
) -> NextJob | None:
    """The next job for this offer, locked, with its project's usage; None where none is for it now.

    The first `look` does not wait for a project that another claim is at, if it is behind the next one after that
    claim. Raises OrderChanged where another project may be next by now, unless this is the last of the `LOOKS`.
    """
    candidates = {
        each.contender.project: each
        for each in heads(session, offer, shares, at)
        if shares.allows(each.contender.project, each.contender.usage, each.devices)
    }
    order = shares.in_order(each.contender for each in candidates.values())
    kept: KeptDevices | None = None
    passed: list[Contender] = []  # projects that other claims are at, as they will be once these have their jobs

    for place, contender in enumerate(order):
        first = candidates[contender.project]
        if kept is None:  # only the first such job has a reservation, on this worker or on another
            kept = _kept_for(session, worker, offer, first, at)

        chosen = _best(session, worker, contender, offer, shares, at, held=kept.workers if kept else frozenset())
        if chosen is None or (kept and not kept.admits(session, chosen)):
            continue  # nothing fits, others have taken it, or it would delay the large job

        rivals = order[place + 1 : place + 2]
        waits = look > 1 or not first.used  # without a row of its usage there is nothing to lock yet
        row = usage.lock(session, contender.project) if waits else usage.try_lock(session, contender.project)
        if row is None:
            after = contender.with_devices(chosen.job.devices)
            if shares.behind(after, rivals):
                passed.append(after)
                continue
            if passed:
                raise OrderChanged  # this claim would wait here, and one of those may be the next meanwhile
            row = usage.lock(session, contender.project)

        # Whatever comes of it, no second project is waited for: the order of locks is that of their names.
        current = replace(contender, usage=usage.usage_at(row, at))
        return _confirmed(session, chosen, current, [*passed, *rivals], shares, final=look == LOOKS)
    if passed:
        raise OrderChanged
    return None


def _confirmed(
    session: Session,
    chosen: NextJob,
    current: Contender,
    rivals: list[Contender],
    shares: ProjectShares,
    *,
    final: bool,
) -> NextJob | None:
    """The chosen job, if it still is the next one now that its project is locked; see `choose`."""
    allowed = shares.allows(current.project, current.usage, chosen.job.devices)
    if not final and (not allowed or shares.behind(current, rivals)):
        raise OrderChanged
    if allowed and chosen.gang and not gang_rows.still_free(session, chosen.gang):
        if final:
            return None
        raise OrderChanged
    return chosen if allowed else None


def _kept_for(session: Session, worker: str, offer: Offer, job: Candidate, at: datetime) -> KeptDevices | None:
    """What is kept for a project's first job; None where it can start now, here or elsewhere."""
    if job.machines > 1:
        reserved = gangs.keep(hosts(session, at), job.need)
        if not reserved:
            return None
        here = next((each for each in reserved if each.machine.name == worker_of(worker)), None)
        return KeptDevices(here, frozenset(each.machine.name for each in reserved))

    if offer.free(job.device, devices=job.devices):
        return None
    found = reservation(session, at, devices=job.devices, device=job.device, asking=worker, offer=offer)
    if found is None:
        return KeptDevices()
    return KeptDevices(found if found.machine.name == worker_of(worker) else None, frozenset({found.machine.name}))


def _best(
    session: Session,
    worker: str,
    contender: Contender,
    offer: Offer,
    shares: ProjectShares,
    at: datetime,
    *,
    held: frozenset[str],
) -> NextJob | None:
    """The project's best job that can start now; one on several machines where as many workers have room."""
    job = _lock_best(session, contender, offer, shares, at)
    if job is None or job.machines == 1:
        return NextJob(job) if job else None

    need = Need(job.machines, job.devices // job.machines, job.device)
    gang = gangs.form(hosts(session, at), need, leader=worker_of(worker), offer=offer, held=held)
    if gang is not None:
        return NextJob(job, gang)
    job = _lock_best(session, contender, replace(offer, gangs=False), shares, at)
    return NextJob(job) if job else None


def claimed(db: Database, *, worker: str, seconds: float) -> Lease | None:
    """The lease that a claim under this worker's name took, for a worker that did not get the answer to its claim."""
    with db.read() as session:
        owned = (Job.lease_owner == worker, Job.status.in_(LEASED), Job.lease_until > now(session))
        job = session.scalar(select(Job).where(*owned))
        if job is None:
            return None
        return Lease(
            job.id, job.attempt, worker, seconds, job.devices // job.machines, _device_of(session, job), job.machines
        )


def _device_of(session: Session, job: Job) -> str | None:
    """The kind of device that the attempt takes: what the request names, or all of one gang."""
    if job.machines == 1:
        return job.device
    place = (GangMember.job_id == job.id, GangMember.attempt == job.attempt, GangMember.rank == 0)
    return session.scalar(select(GangMember.device).where(*place))


def heads(session: Session, offer: Offer, shares: ProjectShares, at: datetime) -> list[Candidate]:
    """One for each project that has a job for this offer; one query, of a few rows for each project.

    Jobs that need more devices than their project's limit are passed over, and so is a gang that cannot form, whatever
    becomes free.
    """
    found = _first_jobs(session, offer, shares, at)
    passed = _passed_over(session, found, at)
    if not passed:
        return found
    alone = _first_jobs(session, replace(offer, gangs=False), shares, at)
    others = [each for each in found if each.contender.project not in passed]
    return others + [each for each in alone if each.contender.project in passed]


def _passed_over(session: Session, found: Sequence[Candidate], at: datetime) -> set[str]:
    """Projects whose first job is for a gang that the workers alive could not form."""
    large = [each for each in found if each.machines > 1]
    able = hosts(session, at) if large else []
    return {each.contender.project for each in large if gangs.lacking(able, each.need)}


def _first_jobs(session: Session, offer: Offer, shares: ProjectShares, at: datetime) -> list[Candidate]:
    found = session.execute(_heads(offer.key, tuple(sorted(shares.limits.items()))), {"at": at})
    return [
        Candidate(
            Contender(row.project, usage.usage_at(row if row.at else None, at), row.created_at),
            row.id,
            row.devices,
            row.device,
            row.machines,
            bool(row.at),
        )
        for row in found
    ]


def _lock_best(
    session: Session, contender: Contender, offer: Offer, shares: ProjectShares, at: datetime
) -> Row[Any] | None:
    """The project's best job that fits into what is free and allowed, and that no other claim has locked."""
    limit = shares.limit(contender.project)
    allowed = UNLIMITED if limit is None else limit - contender.usage.running
    given = {"at": at, "project": contender.project, "allowed": allowed}
    return session.execute(_best_of_project(offer.now.key), given).one_or_none()


# Composing a statement costs more than running it: these are composed once for each kind of worker.


@lru_cache(maxsize=64)
def _heads(key: OfferKey, limits: tuple[tuple[str, int], ...]) -> Statement:
    projects = waiting_projects()
    head = _first(_condition(key)).where(Job.project == projects.c.project)
    if limits:  # what is beyond a project's limit never runs, and nothing waits behind it
        of_all, named = dict(limits).get("*"), [(Job.project == name, most) for name, most in limits if name != "*"]
        most = case(*named, else_=of_all) if named else literal(of_all)
        head = head.where(or_(most.is_(None), Job.devices <= most))
    first = aliased(Job)
    found = head.with_only_columns(Job.id).correlate(projects).scalar_subquery()
    return (
        select(first.project, first.id, first.created_at, first.devices, first.device, first.machines, *_USAGE)
        .select_from(projects)
        .join(first, first.id == found)
        .outerjoin(ProjectUsage, ProjectUsage.project == projects.c.project)
    )


@lru_cache(maxsize=256)
def _best_of_project(key: OfferKey) -> Statement:
    best = _first(_condition(key))
    best = best.where(Job.project == bindparam("project"), Job.devices <= bindparam("allowed"))
    return best.with_for_update(skip_locked=True)


def _condition(key: OfferKey) -> ColumnElement[bool]:
    devices, partitions, joins = key
    return Offer(dict(devices), {}, partitions, joins).condition()


def _first(condition: ColumnElement[bool]) -> Statement:
    waiting = select(*_COLUMNS).where(WAITING, Job.desired.in_(TO_RUN), _DUE, condition)
    return waiting.order_by(Job.queue_time, Job.id).limit(1)
