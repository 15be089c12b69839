"""/v1/fine_tuning/jobs/{id}/logs: the output of a job's trainers, by pages, from its end, as text, and live."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response

from app.db import Database
from app.errors import InvalidRequest
from app.http.dependencies import Db
from app.jobs.live.streaming import FeedReaderDep, number
from app.jobs.queue.queries import find_job
from app.logs.feed import LINES
from app.logs.queries import kept_from, read, tail
from app.logs.schemas import LogLine, LogList
from app.openapi.prose import ERRORS, LOG_TEXT

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"], responses=ERRORS)


@dataclass(frozen=True, slots=True)
class LogRange:
    """Which lines a request is for."""

    after: Annotated[
        str | None, Query(max_length=9, pattern=r"^[0-9]+$", description="Number of the last line seen.")
    ] = None
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="The last so many lines, instead of `after`.")] = (
        None
    )
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only lines of this attempt.")] = None
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000


@router.get(
    "/{fine_tuning_job_id}/logs",
    operation_id="listFineTuningJobLogs",
    summary="Read or stream a trainer's log",
    response_model=LogList,
    responses=LOG_TEXT,
)
async def list_logs(
    reader: FeedReaderDep,
    request: Request,
    db: Db,
    lines: Annotated[LogRange, Depends()],
    format: Annotated[Literal["json", "text"], Query(description="`text` is also what `Accept: text/plain` gets.")] = (
        "json"
    ),
) -> Any:
    """Oldest first, from line `after` on, or the `tail`. Lines are numbered across attempts; the newest 4 MiB are kept,
    also after the job has ended. Keys, passwords and the server's own paths are left out. Lines arrive about a second
    after they were printed."""
    _refuse_conflicts(lines, stream=reader.stream, format=format)
    project, job_id = reader.caller.project, reader.fine_tuning_job_id
    last_seen = number(reader.behind(lines.after), what="the last line seen")
    if reader.stream:
        if lines.tail is not None and reader.last_event_id is None:
            last_seen = await run_in_threadpool(_before_tail, db, project, job_id, lines.tail)
        return await reader.live(LINES, after=last_seen)

    page = await run_in_threadpool(_list, db, project, job_id, lines, last_seen)
    plain = format == "text" or request.headers.get("accept", "").startswith("text/plain")
    return _text(page, last_seen) if plain else page


def _refuse_conflicts(lines: LogRange, *, stream: bool, format: str) -> None:
    """Refuses parameters of which one would be ignored."""
    if lines.after is not None and lines.tail is not None:
        raise InvalidRequest("give after or tail, not both", param="tail", code="conflict")
    if stream and lines.attempt is not None:
        message = "a stream has the lines of every attempt, each with its number of the attempt; leave attempt out"
        raise InvalidRequest(message, param="attempt", code="conflict")
    if stream and format == "text":
        raise InvalidRequest(
            "a stream consists of server-sent events; leave format out", param="format", code="conflict"
        )


def _before_tail(db: Database, project: str, job_id: str, tail: int) -> int:
    with db.read() as session:
        return max(0, find_job(session, project, job_id).log_lines - tail)


def _list(db: Database, project: str, job_id: str, lines: LogRange, last_seen: int) -> LogList:
    with db.read() as session:
        job = find_job(session, project, job_id)
        if lines.tail is not None:
            rows, more = tail(session, job_id, lines.tail, attempt=lines.attempt), False
        else:
            rows = read(session, job_id, after=last_seen, attempt=lines.attempt, limit=lines.limit + 1)
            rows, more = rows[: lines.limit], len(rows) > lines.limit
        oldest = kept_from(session, job_id)
    return LogList.page([LogLine.of(row) for row in rows], more=more, lines=job.log_lines, kept_from=oldest)


def _text(page: LogList, seen: int) -> Response:
    """The lines as they were printed; the headers say where the next page begins, and whether there is one."""
    last = page.last_id or str(seen)
    return PlainTextResponse(
        "".join(f"{line.text}\n" for line in page.data),
        headers={"x-last-line": last, "x-has-more": str(page.has_more).lower(), "x-content-type-options": "nosniff"},
    )
