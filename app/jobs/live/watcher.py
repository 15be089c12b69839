"""Live views of jobs. One poll serves every watcher of every job: a thousand streams cost the database what one does.

Polling by counter, not LISTEN/NOTIFY: SQLite has none, and PostgreSQL's takes a global lock at commit.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import InvalidRequest
from app.jobs.answers import EventObject
from app.jobs.queue.queries import unknown_job
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Event, Job

log = structlog.get_logger("app.jobs.live.watcher")

#: Seconds of silence after which a stream says that it is alive.
PING_SECONDS: Final = 15.0
#: What is kept in memory of a feed while somebody watches it; what lies further back is read from the database.
_TAIL: Final = 1_000

#: A number, and the server-sent event that has it.
Block = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class State:
    """What the poll sees of a job: its version and status, and how much there is of each feed."""

    version: int
    status: str
    events: int
    points: int
    lines: int

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Feed:
    """Something of a job that grows and is numbered from 1: how much of it there is, and the blocks between two."""

    name: str
    count: Callable[[State], int]
    blocks: Callable[[Session, str, int, int], list[Block]]  # session, job, after, upto


@dataclass(slots=True)
class _Tail:
    """All blocks behind number `start`."""

    start: int
    blocks: list[Block]

    def extend(self, new: Sequence[Block]) -> None:
        self.blocks += new
        if len(self.blocks) > _TAIL:
            self.start = self.blocks[-_TAIL - 1][0]
            del self.blocks[:-_TAIL]


@dataclass(slots=True)
class _WatchedJob:
    state: State
    tails: dict[str, _Tail] = field(default_factory=dict)
    feeds: dict[str, tuple[Feed, int]] = field(default_factory=dict)  # with how many follow it
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class JobWatcher:
    """PollCache the watched jobs in one query every `interval` seconds, while there are any."""

    def __init__(self, db: Database, *, interval: float = 0.25) -> None:
        self._db = db
        self._interval = interval
        self._jobs: dict[str, _WatchedJob] = {}
        self._task: asyncio.Task[None] | None = None
        self._entering = asyncio.Lock()
        self._closing = asyncio.Event()

    async def changed(self, project: str, job_id: str, *, version: int | None, seconds: float) -> State:
        """The job's state once its version differs from `version` (None: from now), or after `seconds`."""
        async with self._watching(project, job_id) as watched:
            known = watched.state.version if version is None else version
            deadline = asyncio.get_running_loop().time() + seconds
            while watched.state.version == known and not watched.state.ended and not self._closing.is_set():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await _wait(watched.changed, left)
            return watched.state

    async def stream(self, project: str, job_id: str, feed: Feed, *, after: int) -> AsyncIterator[bytes]:
        """What the feed has behind number `after` as server-sent events, to the end of the job."""
        async with self._watching(project, job_id, feed) as watched:
            yield b": the %b of this job as they come\n" % feed.name.encode()
            while True:
                state = watched.state
                for number, block in await self._behind(job_id, watched, feed, after):
                    after = number
                    yield block
                after = max(after, feed.count(state))  # a number may be gone: a step that was repeated has a new one
                if state.ended:
                    yield b"data: [DONE]\n\n"
                    return
                if self._closing.is_set():
                    return
                if watched.state == state and not await _wait(watched.changed, PING_SECONDS):
                    # No blank line behind it: after an `id:`, the SDK takes a block without data for an empty event.
                    yield b": ping\n"

    async def close(self) -> None:
        """Ends every stream, so that a server can stop while somebody watches."""
        self._closing.set()
        for watched in self._jobs.values():
            _announce(watched)
        if self._task is not None:
            await self._task  # not cancelled: its thread would go on with a connection that nobody closes any more

    @contextlib.asynccontextmanager
    async def _watching(self, project: str, job_id: str, feed: Feed | None = None) -> AsyncIterator[_WatchedJob]:
        async with self._entering:
            watched = self._jobs.get(job_id)
            if watched is None:
                watched = _WatchedJob(await run_in_threadpool(self._load, project, job_id))
                self._jobs[job_id] = watched
            watched.watchers += 1
            if feed is not None:
                _, followers = watched.feeds.get(feed.name, (feed, 0))
                watched.feeds[feed.name] = (feed, followers + 1)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._poll())
        try:
            yield watched
        finally:
            self._leave(job_id, watched, feed)

    def _leave(self, job_id: str, watched: _WatchedJob, feed: Feed | None) -> None:
        watched.watchers -= 1
        if watched.watchers == 0 and self._jobs.get(job_id) is watched:
            del self._jobs[job_id]
        if feed is not None:
            _, followers = watched.feeds[feed.name]
            watched.feeds[feed.name] = (feed, followers - 1)
            if followers == 1:
                del watched.feeds[feed.name]
                watched.tails.pop(feed.name, None)

    async def _poll(self) -> None:
        while self._jobs and not await _wait(self._closing, self._interval):
            known = {
                job_id: (watched.state, [feed for feed, _ in watched.feeds.values()])
                for job_id, watched in self._jobs.items()
            }
            try:
                news = await run_in_threadpool(self._news, known)
            except Exception as error:  # a database that is away for a while ends no stream
                log.warning("cannot poll the jobs that are watched", error=str(error))
                continue
            for job_id, (state, blocks) in news.items():
                watched = self._jobs.get(job_id)
                if watched is None or watched.state != known[job_id][0]:
                    continue  # nobody watches it any more, or somebody new has loaded it since
                self._take(watched, state, blocks)

    def _take(self, watched: _WatchedJob, state: State, blocks: dict[str, list[Block]]) -> None:
        for name in watched.tails.keys() - blocks.keys():
            del watched.tails[name]  # begun while the poll was under way: what the poll did not ask for is missing
        for name, new in blocks.items():
            if name in watched.feeds:
                feed, _ = watched.feeds[name]
                watched.tails.setdefault(name, _Tail(feed.count(watched.state), [])).extend(new)
        watched.state = state
        _announce(watched)

    def _load(self, project: str, job_id: str) -> State:
        with self._db.read() as session:
            row = session.execute(_states().where(Job.id == job_id, Job.project == project)).one_or_none()
        if row is None:
            raise unknown_job(job_id)
        return State(*row[1:])

    def _news(self, known: dict[str, tuple[State, list[Feed]]]) -> dict[str, tuple[State, dict[str, list[Block]]]]:
        """The states that differ from the `known` ones, and what their feeds have in between."""
        with self._db.read() as session:
            rows = session.execute(_states().where(Job.id.in_(known))).all()
            states = {row.id: State(*row[1:]) for row in rows}
            return {
                job_id: (
                    state,
                    {
                        feed.name: _between(session, feed, job_id, feed.count(known[job_id][0]), feed.count(state))
                        for feed in known[job_id][1]
                    },
                )
                for job_id, state in states.items()
                if state != known[job_id][0]
            }

    async def _behind(self, job_id: str, watched: _WatchedJob, feed: Feed, after: int) -> Sequence[Block]:
        """From memory; from the database only what no watcher has asked for yet. Many who come at once read it once."""
        async with watched.reading:
            upto = feed.count(watched.state)
            if after >= upto:
                return ()
            tail = watched.tails.get(feed.name)
            if tail is not None and tail.start <= after:
                return [each for each in tail.blocks if each[0] > after]
            blocks = await run_in_threadpool(self._read, job_id, feed, after, upto)
            if feed.count(watched.state) == upto:
                watched.tails[feed.name] = _Tail(after, [])
                watched.tails[feed.name].extend(blocks)
            return blocks

    def _read(self, job_id: str, feed: Feed, after: int, upto: int) -> Sequence[Block]:
        with self._db.read() as session:
            return feed.blocks(session, job_id, after, upto)


def sequence_of(session: Session, job_id: str, event_id: str, *, param: str = "after") -> int:
    """The number of the event that a reader has seen last."""
    seq = session.scalar(select(Event.seq).where(Event.job_id == job_id, Event.id == event_id))
    if seq is None:
        raise InvalidRequest(f"no event {event_id!r} of {job_id}", param=param, code="invalid_cursor")
    return seq


def block(cursor: str, content: str) -> bytes:
    """One server-sent event: `cursor` is where a stream goes on that breaks off behind it."""
    return b"id: %b\ndata: %b\n\n" % (cursor.encode(), content.encode())


def _event_blocks(session: Session, job_id: str, after: int, upto: int) -> list[Block]:
    between = (Event.job_id == job_id, Event.seq > after, Event.seq <= upto)
    rows = session.scalars(select(Event).where(*between).order_by(Event.seq))
    return [(row.seq, block(row.id, EventObject.of(row).model_dump_json())) for row in rows]


EVENTS: Final = Feed("events", lambda state: state.events, _event_blocks)


def _states() -> Select[str, int, str, int, int, int]:
    return select(Job.id, Job.version, Job.status, Job.events_count, Job.points_count, Job.log_lines)


def _between(session: Session, feed: Feed, job_id: str, after: int, upto: int) -> list[Block]:
    return feed.blocks(session, job_id, after, upto) if upto > after else []


def _announce(watched: _WatchedJob) -> None:
    """Wakes all who wait now; who waits later waits for the next change."""
    watched.changed.set()
    watched.changed = asyncio.Event()


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await changed.wait()
    except TimeoutError:
        return False
