"""The places of workers in an attempt on several machines, as rows: made together, taken, kept alive, given up.

The leader has the job's lease and decides; a member has a lease on its place, and looks whether the attempt is still
there. All times are the database's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.attempt import Lease, LeaseLost
from app.jobs.queue.gangs import Gang
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import GangMember, Job, Worker
from app.jsontypes import JsonDict

#: Seconds in which an invited worker takes its place; it looks twice a second.
JOIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class GangPlace:
    """A worker's place in one attempt; as long as its row is there, the attempt goes on."""

    job_id: str
    attempt: int
    rank: int
    machines: int
    devices: int
    device: str


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as the leader sees it."""

    rank: int
    worker: str
    state: str
    alive: bool
    outcome: JsonDict | None


class PlaceLost(Exception):
    """The attempt has ended, or goes on without this worker."""


# ---- the claim's side: in the lifecycle's transaction


def still_free(session: Session, gang: Gang) -> bool:
    """Locks the workers of a gang until the transaction ends; False where one of them has been invited meanwhile.

    Every transaction that makes places for a worker holds this lock, so no two gangs count on the same devices. The
    rows are locked in the order of their names.
    """
    query = select(Worker.id).where(Worker.id.in_(gang.workers)).order_by(Worker.id).with_for_update()
    present = session.scalars(query).all()
    pending = select(GangMember.job_id).where(GangMember.worker.in_(gang.workers), GangMember.state == "invited")
    return len(present) == len(gang.workers) and session.scalar(pending.limit(1)) is None


def make_places(session: Session, lease: Lease, gang: Gang, at: datetime) -> None:
    """Adds a place for each worker: the leader has taken its own, the others are invited."""
    for rank, worker in enumerate(gang.workers):
        row = GangMember(job_id=lease.job_id, attempt=lease.attempt, rank=rank, worker=worker)
        row.devices, row.device = gang.devices, gang.product
        row.state = "invited" if rank else "joined"
        row.lease_until = at + timedelta(seconds=JOIN_SECONDS if rank else lease.seconds)
        session.add(row)


def disband(session: Session, job_id: str) -> None:
    """Removes all places of a job whose attempt has ended: its members see it and stop."""
    session.execute(delete(GangMember).where(GangMember.job_id == job_id))


# ---- the leader's side


def publish(db: Database, lease: Lease, plan: Mapping[str, Any]) -> None:
    """Stores what the members are to stage, and where all meet. Raises LeaseLost."""
    with db.write() as session:
        _own(session, lease)
        mine = _place(lease.job_id, lease.attempt, 0)
        session.execute(update(GangMember).where(*mine).values(plan=dict(plan), state="ready"))


def members(db: Database, lease: Lease) -> list[MemberState]:
    """All members but the leader, by rank. Of an attempt that has ended there are none."""
    with db.read() as session:
        at = now(session)
        query = select(GangMember).where(GangMember.job_id == lease.job_id, GangMember.attempt == lease.attempt)
        rows = session.scalars(query.where(GangMember.rank > 0).order_by(GangMember.rank)).all()
        return [MemberState(row.rank, row.worker, row.state, row.lease_until > at, row.outcome) for row in rows]


def forget_workers(db: Database, names: Collection[str]) -> None:
    """Takes workers that did not answer to be gone, so that no gang waits for them; one that lives registers again."""
    with db.write() as session:
        session.execute(delete(Worker).where(Worker.id.in_(names)))


def _own(session: Session, lease: Lease) -> None:
    guard = (Job.id == lease.job_id, Job.attempt == lease.attempt, Job.status.in_(LEASED))
    valid = select(Job.id).where(*guard, Job.lease_until > now(session)).with_for_update()
    if session.scalar(valid) is None:
        raise LeaseLost(lease, session.scalar(select(Job.status).where(Job.id == lease.job_id)) or "gone")


# ---- a member's side


def invitation(db: Database, worker: str) -> GangPlace | None:
    """The place that waits for this worker, if any."""
    with db.read() as session:
        mine = (GangMember.worker == worker, GangMember.state == "invited", GangMember.lease_until > now(session))
        query = select(GangMember, Job.machines).join(Job, Job.id == GangMember.job_id).where(*mine)
        row = session.execute(query.order_by(GangMember.lease_until).limit(1)).one_or_none()
        if row is None:
            return None
        place, machines = row
        return GangPlace(place.job_id, place.attempt, place.rank, machines, place.devices, place.device)


def join(db: Database, place: GangPlace, *, seconds: float) -> bool:
    """Whether the place was taken, for so long."""
    with db.write() as session:
        at = now(session)
        waiting = (GangMember.state == "invited", GangMember.lease_until > at)
        return _change(session, place, *waiting, at=at, state="joined", lease_until=at + timedelta(seconds=seconds))


def beat(db: Database, place: GangPlace, *, seconds: float, state: str | None = None) -> JsonDict | None:
    """Extends the member's lease, and its state where one is given. Returns the leader's plan once there is one.

    Raises PlaceLost.
    """
    with db.write() as session:
        at = now(session)
        changes: dict[str, Any] = {"lease_until": at + timedelta(seconds=seconds)} | ({"state": state} if state else {})
        if not _change(session, place, GangMember.lease_until > at, at=at, **changes):
            raise PlaceLost
        return session.scalar(select(GangMember.plan).where(*_place(place.job_id, place.attempt, 0)))


def gone(db: Database, place: GangPlace) -> bool:
    """Whether the attempt has ended, read without a lock."""
    with db.read() as session:
        return session.scalar(select(GangMember.state).where(*_place(place.job_id, place.attempt, place.rank))) is None


def end(db: Database, place: GangPlace, outcome: Mapping[str, Any]) -> bool:
    """Tells the leader how this member's part ended; False where nobody wants to know any more."""
    with db.write() as session:
        at = now(session)
        return _change(session, place, at=at, state="ended", outcome=dict(outcome))


def _change(session: Session, place: GangPlace, *guard: ColumnElement[bool], at: datetime, **changes: Any) -> bool:
    """Whether the row was there to be changed, and the leader's lease on the job still valid."""
    leased = select(Job.id).where(Job.id == place.job_id, Job.attempt == place.attempt, Job.lease_until > at)
    mine = (*_place(place.job_id, place.attempt, place.rank), *guard, leased.exists())
    changed = update(GangMember).where(*mine).values(changes).execution_options(synchronize_session=False)
    return session.execute(changed.returning(GangMember.rank)).one_or_none() is not None


def _place(job_id: str, attempt: int, rank: int) -> tuple[ColumnElement[bool], ...]:
    return GangMember.job_id == job_id, GangMember.attempt == attempt, GangMember.rank == rank
