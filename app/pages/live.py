"""Tells open pages by server-sent events that what they show has changed; they fetch themselves again then."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Final, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.auth.caller import AsReader
from app.db import Database
from app.http.dependencies import Db
from app.jobs.live.streaming import WatcherDep
from app.jobs.live.watcher import PING_SECONDS, JobState, JobWatcher
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Job

router = APIRouter(include_in_schema=False)

#: Seconds between two messages at least: a page is rendered anew for each.
PACE: Final = 0.7
#: Seconds between two looks at a project's jobs, which all its open dashboards share.
LOOK: Final = 1.0
#: Jobs that have not ended and that a look sees; changes of more are seen when one of these ends.
_SEEN: Final = 200


@router.get("/jobs/{job_id}/changes")
async def job_changes(job_id: str, caller: AsReader, watcher: WatcherDep, version: int = 0) -> Response:
    """A message whenever the job is another than in `version`; the last one is the event `ended`."""
    state = await watcher.changed(caller.project, job_id, version=None, seconds=0)
    return _stream(_of_job(watcher, caller.project, job_id, state, version))


@router.get("/changes")
async def dashboard_changes(
    request: Request,
    caller: AsReader,
    db: Db,
    watcher: WatcherDep,
    seconds: Annotated[int, Query(ge=0, le=86_400)] = 86_400,
) -> Response:
    """A message whenever a job of the project is made, ends, or gets further, for so many seconds."""
    looks = cast(ProjectLooks, request.app.state.project_looks)
    known = await looks.look(db, caller.project)  # before the answer begins: a database that is away is a 503
    return _stream(_of_project(looks, db, watcher, caller.project, known, seconds=seconds))


class ProjectLooks:
    """What each project's jobs looked like a moment ago: one query a second, however many dashboards are open."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, str]] = {}
        self._looking = asyncio.Lock()

    async def look(self, db: Database, project: str) -> str:
        """A digest of the jobs that have not ended, which changes when one does, moves or is made."""
        async with self._looking:
            clock = asyncio.get_running_loop().time
            at, digest = self._seen.get(project, (float("-inf"), ""))
            if clock() - at >= LOOK:
                digest = await run_in_threadpool(_look, db, project)
                self._seen[project] = (clock(), digest)
            return digest


def _look(db: Database, project: str) -> str:
    newest = select(Job.id, Job.version).where(Job.project == project, Job.status.not_in(TERMINAL))
    with db.read() as session:
        rows = session.execute(newest.order_by(Job.created_at.desc(), Job.id.desc()).limit(_SEEN)).all()
        last = session.scalar(select(Job.id).where(Job.project == project).order_by(Job.created_at.desc()).limit(1))
    return hashlib.sha256(repr((last, rows)).encode()).hexdigest()


async def _of_job(
    watcher: JobWatcher, project: str, job_id: str, state: JobState, version: int
) -> AsyncIterator[bytes]:
    while True:
        if state.ended:
            yield f"event: ended\ndata: {state.version}\n\n".encode()
            return
        yield f"data: {state.version}\n\n".encode() if state.version != version else b": ping\n\n"
        version = state.version
        await asyncio.sleep(PACE)
        state = await watcher.changed(project, job_id, version=version, seconds=PING_SECONDS)
        if watcher.closing:
            return


async def _of_project(
    looks: ProjectLooks, db: Database, watcher: JobWatcher, project: str, known: str, *, seconds: float
) -> AsyncIterator[bytes]:
    silent = 0.0
    yield b": the project's jobs as they change\n\n"
    while seconds > 0 and not watcher.closing:
        await asyncio.sleep(LOOK)
        silent, seconds = silent + LOOK, seconds - LOOK
        try:
            seen = await looks.look(db, project)
        except SQLAlchemyError:
            return  # the page asks anew, and is answered with a 503 while the database is away
        if seen != known:
            yield b"data: changed\n\n"
        elif silent >= PING_SECONDS:
            yield b": ping\n\n"
        else:
            continue
        known, silent = seen, 0.0


def _stream(blocks: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(blocks, 200, headers, "text/event-stream")
