"""An attempt as spans of a trace: its job's time in the queue, its own parts, and the stages of its trainer.

The trainer has no network and knows of no trace: its stages are spans by the reports that it writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, Self

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app import tracing
from app.db import Database
from app.jobs.queue.attempt import Lease
from app.jobs.queue.tables import Event, Job
from app.tracing import Attribute, TraceSpan

log = structlog.get_logger(__name__)

_JOB: Final = (Job.traceparent, Job.project, Job.task, Job.model, Job.created_at)


class AttemptTrace:
    """Begun when the job is claimed, ended with the attempt. Where traces are not sent, it does nothing."""

    def __init__(self, span: TraceSpan) -> None:
        self._span = span
        self._part = span
        self._stage = TraceSpan()

    @classmethod
    def of(cls, db: Database, lease: Lease, *, worker: str) -> Self:
        """The trace goes on from the request that made the job; without one, each attempt has a trace of its own."""
        if not tracing.enabled():
            return cls(TraceSpan())
        parent, attributes = None, dict[str, Attribute](job_id=lease.job_id, attempt=lease.attempt, worker=worker)
        try:
            with db.read() as session:
                job = session.execute(select(*_JOB).where(Job.id == lease.job_id)).one()
                newest = select(Event.created_at).where(Event.job_id == lease.job_id).order_by(Event.seq.desc())
                times = session.scalars(newest.limit(2)).all()
        except SQLAlchemyError as error:
            log.warning("a trace has no request and no queue", job=lease.job_id, error=str(error))
        else:
            parent = job.traceparent
            attributes |= {"devices": lease.devices, "project": job.project, "task": job.task, "model": job.model}
            _queued(parent, lease, since=times[-1] if times else job.created_at, until=times[0] if times else None)
        span = tracing.begin("attempt", parent=parent)
        span.note(**attributes)
        return cls(span)

    def stage(self, name: str) -> None:
        """The trainer has come to this stage, and so has ended the one before."""
        self._stage.end()
        self._stage = tracing.begin(f"trainer: {name}", parent=self._part.traceparent)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the attempt. What ends it early may be a pause: whether it is a failure, the status says."""
        self._part = tracing.begin(name, parent=self._span.traceparent)
        try:
            yield
        except BaseException as error:
            self._part.note(**{"exception.type": type(error).__name__})
            raise
        finally:
            self._stage.end()
            self._part.end()
            self._stage, self._part = TraceSpan(), self._span

    def end(self, status: str) -> None:
        """`status` is the job's after this attempt."""
        self._span.note(status=status)
        if status == "failed":
            self._span.fail("the job has failed")
        self._span.end()


def _queued(parent: str | None, lease: Lease, *, since: datetime, until: datetime | None) -> None:
    """The time since the job was created, or given back by the attempt before: from the event before its start."""
    span = tracing.begin("queue", parent=parent, at=since, job_id=lease.job_id, attempt=lease.attempt)
    span.end(until)
