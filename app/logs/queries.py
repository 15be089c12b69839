"""Stores and reads the lines of jobs' logs: numbered, bounded in size, the oldest dropped first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from app.db import now
from app.jobs.queue.tables import Job
from app.logs.tables import LogChunk

#: Kept of one job's log, all attempts together. The newest lines are kept: they say why it ended.
MAX_BYTES: Final = 4 << 20
CHUNK_LINES: Final = 500
CHUNK_BYTES: Final = 64 << 10
#: Lines between two looks at the size of a log.
_TRIM_LINES: Final = 100


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line that a trainer printed, numbered from 1 across the job's attempts."""

    number: int
    attempt: int
    created_at: datetime
    text: str


def append(session: Session, job_id: str, attempt: int, lines: Sequence[str]) -> None:
    """Adds lines to the end of a log. Needs no lease: an attempt that lost its own may still store what it printed."""
    counted = update(Job).where(Job.id == job_id).values(log_lines=Job.log_lines + len(lines)).returning(Job.log_lines)
    last = session.execute(counted.execution_options(synchronize_session=False)).scalar_one_or_none()
    if last is None:
        return  # the job was deleted meanwhile

    first, at = last - len(lines) + 1, now(session)
    for chunk in _chunks(lines):
        text = "\n".join(chunk)
        row = LogChunk(job_id=job_id, first=first, lines=len(chunk), attempt=attempt, created_at=at, text=text)
        row.size = len(text)
        session.add(row)
        first += len(chunk)

    session.flush()
    if last // _TRIM_LINES != (last - len(lines)) // _TRIM_LINES:
        _trim(session, job_id)


def read(
    session: Session,
    job_id: str,
    *,
    after: int = 0,
    upto: int | None = None,
    attempt: int | None = None,
    limit: int | None = None,
) -> list[StoredLine]:
    """Up to `limit` lines after number `after`, up to number `upto`, oldest first."""
    within = [LogChunk.job_id == job_id, LogChunk.first + LogChunk.lines > after + 1]
    within += [LogChunk.first <= upto] if upto is not None else []
    within += [LogChunk.attempt == attempt] if attempt is not None else []
    lines: list[StoredLine] = []
    for chunk in session.scalars(select(LogChunk).where(*within).order_by(LogChunk.first)):
        lines += [line for line in _lines(chunk) if line.number > after and (upto is None or line.number <= upto)]
        if limit is not None and len(lines) >= limit:
            return lines[:limit]
    return lines


def tail(session: Session, job_id: str, count: int, *, attempt: int | None = None) -> list[StoredLine]:
    """The last `count` lines, oldest first."""
    within: list[ColumnElement[bool]] = [LogChunk.job_id == job_id]
    within += [LogChunk.attempt == attempt] if attempt is not None else []
    lines: list[StoredLine] = []
    for chunk in session.scalars(select(LogChunk).where(*within).order_by(LogChunk.first.desc())):
        lines = [*_lines(chunk), *lines]
        if len(lines) >= count:
            break
    return lines[-count:]


def kept_from(session: Session, job_id: str) -> int | None:
    """The number of the oldest line that is still kept."""
    return session.scalar(select(func.min(LogChunk.first)).where(LogChunk.job_id == job_id))


def _lines(chunk: LogChunk) -> Iterator[StoredLine]:
    for number, text in enumerate(chunk.text.split("\n"), start=chunk.first):
        yield StoredLine(number, chunk.attempt, chunk.created_at, text)


def _chunks(lines: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) == CHUNK_LINES or size + len(line) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line) + 1
    if chunk:
        yield chunk


def _trim(session: Session, job_id: str) -> None:
    """Drops the oldest chunks of a log that has grown over MAX_BYTES."""
    rows = session.execute(
        select(LogChunk.first, LogChunk.size).where(LogChunk.job_id == job_id).order_by(LogChunk.first.desc())
    ).all()
    total = 0
    for first, size in rows:
        total += size
        if total > MAX_BYTES:
            session.execute(delete(LogChunk).where(LogChunk.job_id == job_id, LogChunk.first <= first))
            return
