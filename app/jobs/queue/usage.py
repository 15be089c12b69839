"""What projects use of the devices, as rows that change in the transactions in which leases begin and end.

The lifecycle notes every change while it moves jobs; the rows are written last, when the transaction commits. So every
transaction locks jobs first and then projects, these in the order of their names, and nothing waits in a circle; and
however long a transaction takes, projects are locked for its last moment only.
"""

from collections import Counter
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Integer, Row, event, func, literal, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db import Database, now
from app.jobs.queue.fair_share import Usage
from app.jobs.queue.states import LEASED
from app.jobs.queue.tables import Job, ProjectUsage

#: Keys of a session's `info`: changes by project that wait for the commit, with the time of the last one where its
#: transaction knows it, and rows that this transaction has locked.
_NOTED: Final = "changes of usage"
_NOTED_AT: Final = "time of the changes of usage"
_LOCKED: Final = "locked usage"
_HELD: Final = (Job.lease_until.is_not(None), Job.status.in_(LEASED))


def note(session: Session, project: str, devices: int, *, at: datetime | None = None) -> None:
    """Has a project's running devices change by so many when this transaction commits.

    `at` is the time of the change, where the transaction has asked the database for it already.
    """
    if _NOTED not in session.info:
        session.info[_NOTED] = Counter()
        event.listen(session, "before_commit", _store)
    session.info[_NOTED][project] += devices
    session.info[_NOTED_AT] = at


def lock(session: Session, project: str) -> ProjectUsage:
    """The project's row, locked until this transaction ends; a new one where the project has run nothing yet."""
    locked: dict[str, ProjectUsage] = session.info.setdefault(_LOCKED, {})
    if project not in locked:
        locked[project] = _lock(session, project, skip=False) or _new(session, project)
    return locked[project]


def try_lock(session: Session, project: str) -> ProjectUsage | None:
    """The row of a project that has one, locked; None at once where another transaction has locked it."""
    row = _lock(session, project, skip=True)
    if row is not None:
        session.info.setdefault(_LOCKED, {})[project] = row
    return row


def _lock(session: Session, project: str, *, skip: bool) -> ProjectUsage | None:
    query = select(ProjectUsage).where(ProjectUsage.project == project).with_for_update(skip_locked=skip)
    return session.scalar(query.execution_options(populate_existing=True))


def _new(session: Session, project: str) -> ProjectUsage:
    """The locked row of a project without one, which another transaction may store in the same moment."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    new = insert(ProjectUsage).values(project=project, running=0, smoothed=0.0, at=now(session))
    session.execute(new.on_conflict_do_nothing())
    row = _lock(session, project, skip=False)
    assert row is not None
    return row


def usage_at(row: ProjectUsage | Row[Any] | None, at: datetime) -> Usage:
    """The usage that a row, or no row yet, comes to at this moment."""
    if row is None:
        return Usage()
    return Usage(row.running, row.smoothed).later((at - row.at).total_seconds())


def recount(db: Database) -> list[str]:
    """Corrects rows that do not agree with the leases, and returns their projects.

    Workers of a version without these rows leave such differences while an upgrade is under way.
    """
    with db.read() as session:
        projects = [project for project, _, _ in differences(session)]
    for project in projects:
        with db.write() as session:
            # What has changed a lease of this project holds this lock until it commits: the sum misses nothing.
            row = lock(session, project)
            held = select(func.coalesce(func.sum(Job.devices), 0)).where(Job.project == project, *_HELD)
            _change(row, int(session.scalars(held).one()) - row.running, now(session))
    return projects


def differences(session: Session) -> list[tuple[str, int, int]]:
    """Projects whose rows do not agree with the leases: (project, devices by its row, devices by its leases)."""
    none = literal(0, Integer)
    rows = select(ProjectUsage.project, ProjectUsage.running.label("counted"), none.label("leased"))
    leases = select(Job.project, none.label("counted"), Job.devices.label("leased")).where(*_HELD)
    both = union_all(rows, leases).subquery()
    counted, leased = func.sum(both.c.counted), func.sum(both.c.leased)
    query = select(both.c.project, counted, leased).group_by(both.c.project).having(counted != leased)
    return [(project, int(one), int(two)) for project, one, two in session.execute(query.order_by(both.c.project))]


def _store(session: Session) -> None:
    noted: Counter[str] = session.info.pop(_NOTED, Counter())
    at: datetime | None = session.info.pop(_NOTED_AT, None)
    for project, devices in sorted(noted.items()):
        if devices:
            _change(lock(session, project), devices, at or now(session))


def _change(row: ProjectUsage, devices: int, at: datetime) -> None:
    row.smoothed = usage_at(row, at).smoothed
    row.running += devices
    row.at = max(row.at, at)
