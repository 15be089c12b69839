"""Live views of jobs. One poll serves every watcher of every job: a thousand streams cost the database what one does.

Polling by counter, not LISTEN/NOTIFY: SQLite has none, and PostgreSQL's takes a global lock at commit.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import InvalidRequest, NotFound
from app.jobs.answers import EventObject
from app.jobs.states import TERMINAL
from app.jobs.tables import Event, Job

log = structlog.get_logger("app.jobs.events")

#: Seconds of silence after which a stream says that it is alive.
PING_SECONDS: Final = 15.0
#: Events of a job that are kept in memory while somebody watches it; older ones are read from the database.
_TAIL: Final = 1_000


@dataclass(frozen=True, slots=True)
class State:
    """What the poll sees of a job."""

    version: int
    events: int
    status: str

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


@dataclass(slots=True)
class _Watched:
    state: State
    tail: deque[tuple[int, bytes]]
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Watcher:
    """Polls the watched jobs in one query every `interval` seconds, while there are any."""

    def __init__(self, db: Database, *, interval: float = 0.25) -> None:
        self._db = db
        self._interval = interval
        self._jobs: dict[str, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._entering = asyncio.Lock()
        self._closed = False

    async def changed(self, project: str, job_id: str, *, version: int | None, seconds: float) -> State:
        """The job's state once its version differs from `version` (None: from now), or after `seconds`."""
        async with self._watching(project, job_id) as watched:
            known = watched.state.version if version is None else version
            deadline = asyncio.get_running_loop().time() + seconds
            while watched.state.version == known and not watched.state.ended and not self._closed:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await _wait(watched.changed, left)
            return watched.state

    async def stream(self, project: str, job_id: str, *, after: int) -> AsyncIterator[bytes]:
        """The job's events behind number `after` as server-sent events, to the end of the job."""
        async with self._watching(project, job_id) as watched:
            yield b": the events of this job as they happen\n"
            while True:
                state = watched.state
                for seq, block in await self._behind(job_id, watched, after):
                    after = seq
                    yield block
                if state.ended and after >= state.events:
                    yield b"data: [DONE]\n\n"
                    return
                if self._closed:
                    return
                if watched.state == state and not await _wait(watched.changed, PING_SECONDS):
                    # No blank line behind it: after an `id:`, the SDK takes a block without data for an empty event.
                    yield b": ping\n"

    async def close(self) -> None:
        """Ends every stream, so that a server can stop while somebody watches."""
        self._closed = True
        for watched in self._jobs.values():
            _announce(watched)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def _watching(self, project: str, job_id: str) -> AsyncIterator[_Watched]:
        async with self._entering:
            watched = self._jobs.get(job_id)
            if watched is None:
                watched = await run_in_threadpool(self._load, project, job_id)
                self._jobs[job_id] = watched
            watched.watchers += 1
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._poll())
        try:
            yield watched
        finally:
            watched.watchers -= 1
            if watched.watchers == 0 and self._jobs.get(job_id) is watched:
                del self._jobs[job_id]

    async def _poll(self) -> None:
        while self._jobs:
            await asyncio.sleep(self._interval)
            known = {job_id: watched.state for job_id, watched in self._jobs.items()}
            try:
                states, blocks = await run_in_threadpool(self._news, known)
            except Exception as error:  # a database that is away for a while ends no stream
                log.warning("cannot poll the jobs that are watched", error=str(error))
                continue
            for job_id, state in states.items():
                watched = self._jobs.get(job_id)
                if watched is None or watched.state.version > state.version:
                    continue  # nobody watches it any more, or somebody new has loaded it since
                watched.tail.extend(each for each in blocks.get(job_id, ()) if each[0] > watched.state.events)
                watched.state = state
                _announce(watched)

    def _load(self, project: str, job_id: str) -> _Watched:
        with self._db.read() as session:
            row = session.execute(_states().where(Job.id == job_id, Job.project == project)).one_or_none()
            if row is None:
                raise NotFound(f"no fine-tuning job {job_id!r} in this project", param="fine_tuning_job_id")
            state = State(row.version, row.events_count, row.status)
            tail = deque(_blocks(session, job_id, after=state.events - _TAIL, upto=state.events), maxlen=_TAIL)
        return _Watched(state, tail)

    def _news(self, known: dict[str, State]) -> tuple[dict[str, State], dict[str, list[tuple[int, bytes]]]]:
        """The states that differ from the `known` ones, and the events in between."""
        with self._db.read() as session:
            rows = session.execute(_states().where(Job.id.in_(known))).all()
            states = {row.id: State(row.version, row.events_count, row.status) for row in rows}
            states = {job_id: state for job_id, state in states.items() if state != known[job_id]}
            grown = {job_id: state for job_id, state in states.items() if state.events > known[job_id].events}
            blocks = {
                job_id: _blocks(session, job_id, after=known[job_id].events, upto=state.events)
                for job_id, state in grown.items()
            }
        return states, blocks

    async def _behind(self, job_id: str, watched: _Watched, after: int) -> Sequence[tuple[int, bytes]]:
        if after >= watched.state.events:
            return ()
        if watched.tail and watched.tail[0][0] <= after + 1:
            return [each for each in watched.tail if each[0] > after]
        return await run_in_threadpool(self._read, job_id, after, watched.state.events)

    def _read(self, job_id: str, after: int, upto: int) -> Sequence[tuple[int, bytes]]:
        with self._db.read() as session:
            return _blocks(session, job_id, after=after, upto=upto)


def sequence_of(session: Session, job_id: str, event_id: str, *, param: str = "after") -> int:
    """The number of the event that a reader has seen last."""
    seq = session.scalar(select(Event.seq).where(Event.job_id == job_id, Event.id == event_id))
    if seq is None:
        raise InvalidRequest(f"no event {event_id!r} of {job_id}", param=param, code="invalid_cursor")
    return seq


def _states() -> Select[str, int, int, str]:
    return select(Job.id, Job.version, Job.events_count, Job.status)


def _blocks(session: Session, job_id: str, *, after: int, upto: int) -> list[tuple[int, bytes]]:
    between = (Event.job_id == job_id, Event.seq > after, Event.seq <= upto)
    rows = session.scalars(select(Event).where(*between).order_by(Event.seq))
    return [(row.seq, _block(EventObject.of(row))) for row in rows]


def _block(event: EventObject) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (event.id.encode(), event.model_dump_json().encode())


def _announce(watched: _Watched) -> None:
    """Wakes all who wait now; who waits later waits for the next change."""
    watched.changed.set()
    watched.changed = asyncio.Event()


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await changed.wait()
    except TimeoutError:
        return False
