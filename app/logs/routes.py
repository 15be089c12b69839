"""/v1/fine_tuning/jobs/{id}/logs: what a job's trainers print, page by page, from its end, as text, and live."""

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
class Part:
    """Which lines are asked for."""

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
    part: Annotated[Part, Depends()],
    format: Annotated[Literal["json", "text"], Query(description="`text` is also what `Accept: text/plain` gets.")] = (
        "json"
    ),
) -> Any:
    """Oldest first, from line `after` on, or the `tail`. Lines are numbered across attempts and kept when the job has
    ended, the newest 4 MiB of them; keys, passwords and the server's own paths are left out. They arrive about a second
    after they were printed."""
    _refuse_both(part, reader.stream, format)
    project, job_id = reader.who.project, reader.fine_tuning_job_id
    seen = number(reader.behind(part.after), what="the last line seen")
    if reader.stream:
        if part.tail is not None and reader.last_event_id is None:
            seen = await run_in_threadpool(_before_tail, db, project, job_id, part.tail)
        return await reader.live(LINES, after=seen)
    found = await run_in_threadpool(_list, db, project, job_id, part, seen)
    plain = format == "text" or request.headers.get("accept", "").startswith("text/plain")
    return _text(found, seen) if plain else found


def _refuse_both(part: Part, stream: bool, format: str) -> None:
    """What would leave one of two wishes out of account."""
    if part.after is not None and part.tail is not None:
        raise InvalidRequest("give after or tail, not both", param="tail", code="conflict")
    if stream and part.attempt is not None:
        message = "a stream has the lines of every attempt; each line says its own"
        raise InvalidRequest(message, param="attempt", code="conflict")
    if stream and format == "text":
        raise InvalidRequest("a stream is of server-sent events; leave format out", param="format", code="conflict")


def _before_tail(db: Database, project: str, job_id: str, tail: int) -> int:
    with db.read() as session:
        return max(0, find_job(session, project, job_id).log_lines - tail)


def _list(db: Database, project: str, job_id: str, part: Part, seen: int) -> LogList:
    with db.read() as session:
        job = find_job(session, project, job_id)
        if part.tail is not None:
            found, more = tail(session, job_id, part.tail, attempt=part.attempt), False
        else:
            found = read(session, job_id, after=seen, attempt=part.attempt, limit=part.limit + 1)
            found, more = found[: part.limit], len(found) > part.limit
        oldest = kept_from(session, job_id)
    return LogList.page([LogLine.of(line) for line in found], more=more, lines=job.log_lines, kept_from=oldest)


def _text(found: LogList, seen: int) -> Response:
    """The lines as they were printed; the header says where the next page begins."""
    last = found.last_id or str(seen)
    return PlainTextResponse(
        "".join(f"{line.text}\n" for line in found.data),
        headers={"x-last-line": last, "x-has-more": str(found.has_more).lower(), "x-content-type-options": "nosniff"},
    )
