"""Deletes events, logs and points of jobs that ended long ago, in small batches, in the order of their ends.

A batch is a transaction. It locks nothing that others write: rows of jobs that have ended, and the place up to which
retention has got, which other workers pass over. No batch reads again what an earlier one has deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import ColumnElement, CursorResult, Row, String, bindparam, delete, func, select, true, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.db import Base, UtcDateTime
from app.jobs.queue.tables import Event, Job, Metric
from app.logs.tables import LogChunk
from app.ops.retention.tables import RetentionPlace
from app.sweeps.metrics import LAST_STEPS

#: Rows that a batch deletes at most, by the numbers that their jobs gave out, and jobs that it looks at.
ROWS: Final = 5_000
JOBS: Final = 500
_Ended = Row[str, datetime | None, int]
_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATER: Final = tuple_(Job.finished_at, Job.id) > tuple_(
    bindparam("ended_at", type_=UtcDateTime), bindparam("job_id", type_=String)
)


@dataclass(frozen=True, slots=True)
class AgingRows:
    """Rows of jobs that are numbered from 1 in each, up to a counter of the job; `goes` says which may be deleted."""

    name: str
    table: type[Base]
    job_id: InstrumentedAttribute[str]
    number: InstrumentedAttribute[int]
    counter: InstrumentedAttribute[int]
    goes: ColumnElement[bool]


def _before_the_last_steps() -> ColumnElement[bool]:
    """Points by which sweeps rank their jobs stay, and with them the last one of each curve."""
    other = aliased(Metric)
    last = select(func.max(other.step)).where(other.job_id == Metric.job_id, other.split == Metric.split)
    return Metric.step <= last.scalar_subquery() - LAST_STEPS


#: A job's last event stays: it says how the job ended.
_BEFORE_THE_LAST: Final = Event.seq < select(Job.events_count).where(Job.id == Event.job_id).scalar_subquery()

EVENTS: Final = AgingRows("events", Event, Event.job_id, Event.seq, Job.events_count, _BEFORE_THE_LAST)
LOGS: Final = AgingRows("logs", LogChunk, LogChunk.job_id, LogChunk.first, Job.log_lines, true())
POINTS: Final = AgingRows("points", Metric, Metric.job_id, Metric.seq, Job.points_count, _before_the_last_steps())


def delete_batch(session: Session, kind: AgingRows, before: datetime) -> int | None:
    """Deletes a batch of what jobs left that ended before this time; returns how many rows.

    None when nothing is left to delete, or when another worker is at it.
    """
    place = _locked_place(session, kind)
    jobs = _next_jobs(session, kind, place, before) if place is not None else ()
    if place is None or not jobs:
        return None

    first = jobs[0]
    done = place.number if place.next_id == first.id else 0
    if first.rows - done > ROWS:
        place.next_id, place.number = first.id, done + ROWS
        return _delete(session, kind, [first.id], after=done, upto=done + ROWS)

    batch = _batch(jobs)
    place.ended_at, place.job_id, place.next_id, place.number = batch[-1].finished_at, batch[-1].id, None, 0
    return _delete(session, kind, [job.id for job in batch])


def _locked_place(session: Session, kind: AgingRows) -> RetentionPlace | None:
    """Up to where retention has got, locked; None where another worker has it."""
    if session.get(RetentionPlace, kind.name) is None:
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        new = insert(RetentionPlace).values(kind=kind.name, ended_at=_START, job_id="", number=0)
        session.execute(new.on_conflict_do_nothing())

    query = select(RetentionPlace).where(RetentionPlace.kind == kind.name).with_for_update(skip_locked=True)
    return session.scalar(query.execution_options(populate_existing=True))


def _next_jobs(session: Session, kind: AgingRows, place: RetentionPlace, before: datetime) -> Sequence[_Ended]:
    query = select(Job.id, Job.finished_at, kind.counter.label("rows")).where(_LATER, Job.finished_at < before)
    given = {"ended_at": place.ended_at, "job_id": place.job_id}
    return session.execute(query.order_by(Job.finished_at, Job.id).limit(JOBS), given).all()


def _batch(jobs: Sequence[_Ended]) -> Sequence[_Ended]:
    """The first jobs, up to ROWS rows together; the first one in any case."""
    total = 0
    for place, job in enumerate(jobs):
        total += job.rows
        if total > ROWS and place:
            return jobs[:place]
    return jobs


def _delete(
    session: Session, kind: AgingRows, job_ids: Sequence[str], *, after: int | None = None, upto: int | None = None
) -> int:
    within = [kind.job_id.in_(job_ids), kind.goes]
    within += [kind.number > after, kind.number <= upto] if after is not None and upto is not None else []
    statement = delete(kind.table).where(*within).execution_options(synchronize_session=False)
    result = session.execute(statement)
    return result.rowcount if isinstance(result, CursorResult) else 0
