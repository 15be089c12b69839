"""Chooses the job that a worker gets next: of the project that has least by its weight, that project's best job."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, bindparam, or_, select
from sqlalchemy.orm import Session, aliased

from app.db import Database, UtcDateTime, now
from app.jobs.queue import usage
from app.jobs.queue.attempt import Lease
from app.jobs.queue.fair_share import Contender, ProjectShares
from app.jobs.queue.offers import Offer
from app.jobs.queue.queries import waiting_projects
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import WAITING, Job, ProjectUsage

#: How often a worker looks at the queue before it takes what it chose although the order has changed meanwhile.
LOOKS: Final = 4

_DUE: Final = or_(Job.not_before.is_(None), Job.not_before <= bindparam("at", type_=UtcDateTime))
#: What a claim needs of a job.
_COLUMNS: Final = (Job.id, Job.project, Job.status, Job.attempt, Job.devices, Job.device, Job.started_at)
Chosen = Row[Any]
Statement = Select[*tuple[Any, ...]]


class OrderChanged(Exception):
    """Others have claimed jobs meanwhile, so another project may be the next: look again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A project's first job that the worker could run, and whether devices for it are free now."""

    contender: Contender
    fits_now: bool


def choose(session: Session, offer: Offer, shares: ProjectShares, at: datetime, *, final: bool) -> Chosen | None:
    """The next job for this offer, locked, with its project's usage; None where none is for it now.

    Raises OrderChanged where another project may be next by now, unless this is the `final` look.
    """
    candidates = {each.contender.project: each for each in _candidates(session, offer, at)}
    order = shares.in_order(each.contender for each in candidates.values())

    for place, contender in enumerate(order):
        if not candidates[contender.project].fits_now:
            return None  # it keeps its position: those behind it do not take the devices that it waits for
        job = _lock_best(session, contender.project, offer, at)
        if job is None:
            continue  # others have taken it
        fresh = usage.usage_at(usage.lock(session, contender.project), at)
        current = Contender(contender.project, fresh, contender.since)
        if not final and place + 1 < len(order) and shares.rank(current) > shares.rank(order[place + 1]):
            raise OrderChanged
        return job
    return None


def claimed(db: Database, *, worker: str, seconds: float) -> Lease | None:
    """The lease that a claim under this worker's name took, for a worker that did not get the answer to its claim."""
    with db.read() as session:
        owned = (Job.lease_owner == worker, Job.status.in_(LEASED), Job.lease_until > now(session))
        job = session.scalar(select(Job).where(*owned))
        if job is None:
            return None
        return Lease(job.id, job.attempt, worker, seconds, job.devices, job.device)


def _candidates(session: Session, offer: Offer, at: datetime) -> list[Candidate]:
    """One for each project that has a job for this offer; one query, of a few rows for each project."""
    return [
        Candidate(
            Contender(found.project, usage.usage_at(found.ProjectUsage, at), found.created_at),
            offer.free(found.device, devices=found.devices),
        )
        for found in session.execute(_heads(*offer.key), {"at": at})
    ]


def _lock_best(session: Session, project: str, offer: Offer, at: datetime) -> Chosen | None:
    """The project's best job that fits and that no other claim has locked."""
    job = session.execute(_best_of_project(*offer.key), {"at": at, "project": project}).one_or_none()
    return job if job is not None and offer.free(job.device, devices=job.devices) else None


# Composing a statement costs more than running it: these are composed once for each kind of worker.


@lru_cache(maxsize=64)
def _heads(devices: tuple[tuple[str, int], ...], partitions: frozenset[str]) -> Statement:
    projects = waiting_projects()
    head = _best(Offer(dict(devices), {}, partitions).condition()).where(Job.project == projects.c.project)
    first = aliased(Job)
    found = head.with_only_columns(Job.id).correlate(projects).scalar_subquery()
    return (
        select(first.project, first.created_at, first.devices, first.device, ProjectUsage)
        .select_from(projects)
        .join(first, first.id == found)
        .outerjoin(ProjectUsage, ProjectUsage.project == projects.c.project)
    )


@lru_cache(maxsize=64)
def _best_of_project(devices: tuple[tuple[str, int], ...], partitions: frozenset[str]) -> Statement:
    best = _best(Offer(dict(devices), {}, partitions).condition()).where(Job.project == bindparam("project"))
    return best.with_for_update(skip_locked=True)


def _best(condition: ColumnElement[bool]) -> Statement:
    waiting = select(*_COLUMNS).where(WAITING, Job.desired == "run", _DUE, condition)
    return waiting.order_by(Job.queue_time, Job.id).limit(1)
