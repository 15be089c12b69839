"""The workers alive as a large job sees them, and how long jobs take: what reservations are computed from."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.jobs.queue.gangs import GangHost
from app.jobs.queue.offers import Offer
from app.jobs.queue.reservations import Machine, Reservation, Running, reserve
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import GangMember, Job, Worker
from app.jobs.queue.workers import PRESENT, most_of

#: Finished jobs of a project by which the duration of one is bounded.
ENDED: Final = 20
_ENDED_JOBS: Final = (
    select(Job.started_at, Job.finished_at)
    .where(Job.project == bindparam("project"), Job.status == "succeeded")
    .order_by(Job.created_at.desc(), Job.id.desc())
    .limit(ENDED)
)
_RUNNING: Final = select(
    Job.id,
    Job.lease_owner,
    Job.project,
    Job.devices,
    Job.machines,
    Job.progress,
    Job.started_at,
    Job.hyperparameters,
    Job.preempted_for,
).where(Job.lease_until.is_not(None), Job.status.in_(LEASED))


def durations(session: Session, project: str) -> list[float]:
    """Seconds that each of the project's last finished jobs took."""
    rows = session.execute(_ENDED_JOBS, {"project": project})
    return [(ended - started).total_seconds() for started, ended in rows if started and ended]


def bound_of(session: Session, job_id: str, project: str) -> float | None:
    """The longest that a job may take: by its own `max_run_seconds`, else as its project's last jobs took."""
    hyperparameters = session.scalar(select(Job.hyperparameters).where(Job.id == job_id)) or {}
    return _bound(hyperparameters, durations(session, project))


def reservation(
    session: Session, at: datetime, *, devices: int, device: str | None, asking: str = "", offer: Offer | None = None
) -> Reservation | None:
    """The reservation of a waiting job. The worker that is `asking` knows by its `offer` what is free."""
    asking = worker_of(asking)
    running = running_jobs(session, at)
    alive = select(Worker.id, Worker.devices, Worker.products).where(Worker.seen_at > at - PRESENT)

    machines = []
    for name, most, products in session.execute(alive):
        if name != asking:
            capacity = most if device is None else most_of(device, most, products)
            busy = sum(job.devices for job in running[name])
            machines.append(Machine(name, capacity, max(0, capacity - busy), running[name]))
    if offer is not None:
        machines.append(Machine(asking, offer.most(device), offer.most_free(device), running[asking]))
    return reserve(machines, devices)


def hosts(session: Session, at: datetime) -> list[GangHost]:
    """The workers alive that run jobs together with others."""
    columns = (Worker.id, Worker.code, Worker.devices, Worker.products)
    alive = select(*columns).where(
        Worker.seen_at > at - PRESENT, Worker.gang_address.is_not(None), Worker.code.is_not(None)
    )
    found = session.execute(alive.order_by(Worker.id)).all()
    running = running_jobs(session, at) if found else {}
    return [GangHost(row.id, row.code or "", row.devices, dict(row.products), running.get(row.id, ())) for row in found]


def worker_of(owner: str) -> str:
    """The worker that holds a lease: each of its claims has a name of its own, `worker/number`."""
    return owner.rpartition("/")[0] or owner


def running_jobs(session: Session, at: datetime) -> defaultdict[str, list[Running]]:
    """What runs on each worker, with the seconds that are left by its own report, else by its bound.

    A job that is to make room for another ends now, as far as anybody who waits for its devices can say.
    """
    running: defaultdict[str, list[Running]] = defaultdict(list)
    known: dict[str, list[float]] = {}
    gangs: dict[str, float | None] = {}
    for row in session.execute(_RUNNING):
        left = 0.0 if row.preempted_for else (row.progress or {}).get("eta_seconds")
        if left is None:
            if row.project not in known:
                known[row.project] = durations(session, row.project)
            bound = _bound(row.hyperparameters, known[row.project])
            left = None if bound is None else max(0.0, bound - (at - (row.started_at or at)).total_seconds())
        if row.machines > 1:
            gangs[row.id] = left
        else:
            running[worker_of(row.lease_owner or "")].append(Running(row.devices, left))

    if gangs:
        places = select(GangMember.job_id, GangMember.worker, GangMember.devices)
        for job_id, worker, devices in session.execute(places.where(GangMember.job_id.in_(gangs))):
            running[worker].append(Running(devices, gangs[job_id]))
    return running


def _bound(hyperparameters: Mapping[str, Any], ended: list[float]) -> float | None:
    own = hyperparameters.get("max_run_seconds")
    return float(own) if own is not None else max(ended, default=None)
