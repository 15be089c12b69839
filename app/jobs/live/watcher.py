"""Live views of jobs: one poll serves all watchers of all jobs, so a thousand streams load the database as one does.

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
from app.jobs.queue.queries import missing_job
from app.jobs.queue.states import TERMINAL
from app.jobs.queue.tables import Event, Job

log = structlog.get_logger("app.jobs.live.watcher")

#: Seconds of silence after which a stream says that it is alive.
PING_SECONDS: Final = 15.0
#: Blocks of a feed that are kept in memory while it is watched; older ones are read from the database.
_TAIL: Final = 1_000

#: An item's number, and its server-sent event.
Block = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class JobState:
    """What a poll reads of a job: version, status, and the number of items in each feed."""

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
    """A growing list of a job's items, numbered from 1: how many there are, and how to read a range of them."""

    name: str
    count: Callable[[JobState], int]
    blocks: Callable[[Session, str, int, int], list[Block]]  # session, job, after, upto


#: A job's new state, and the new blocks of each of its feeds.
Change = tuple[JobState, dict[str, list[Block]]]


@dataclass(slots=True)
class _Tail:
    """The blocks after number `start`, at most _TAIL of them."""

    start: int
    blocks: list[Block]

    def extend(self, new: Sequence[Block]) -> None:
        self.blocks += new
        if len(self.blocks) > _TAIL:
            self.start = self.blocks[-_TAIL - 1][0]
            del self.blocks[:-_TAIL]


@dataclass(slots=True)
class _WatchedJob:
    state: JobState
    tails: dict[str, _Tail] = field(default_factory=dict)
    feeds: dict[str, tuple[Feed, int]] = field(default_factory=dict)  # each with its number of followers
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class JobWatcher:
    """Polls the watched jobs in one query every `interval` seconds, while there are any."""

    def __init__(self, db: Database, *, interval: float = 0.25) -> None:
        self._db = db
        self._interval = interval
        self._jobs: dict[str, _WatchedJob] = {}
        self._task: asyncio.Task[None] | None = None
        self._entering = asyncio.Lock()
        self._closing = asyncio.Event()

    @property
    def closing(self) -> bool:
        """Whether the server stops: streams end."""
        return self._closing.is_set()

    async def changed(self, project: str, job_id: str, *, version: int | None, seconds: float) -> JobState:
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
        """The feed's items after number `after` as server-sent events, to the end of the job."""
        async with self._watching(project, job_id, feed) as watched:
            yield b": the %b of this job as they come\n" % feed.name.encode()
            while True:
                state = watched.state
                for number, block in await self._behind(job_id, watched, feed, after):
                    after = number
                    yield block
                after = max(after, feed.count(state))  # numbers may be missing: a repeated step has a new one
                if state.ended:
                    yield b"data: [DONE]\n\n"
                    return
                if self._closing.is_set():
                    return
                if watched.state == state and not await _wait(watched.changed, PING_SECONDS):
                    # No blank line after it: after an `id:`, the SDK takes a block without data for an empty event.
                    yield b": ping\n"

    async def close(self) -> None:
        """Ends every stream, so that a server can stop while clients watch."""
        self._closing.set()
        for watched in self._jobs.values():
            _announce(watched)
        if self._task is not None:
            await self._task  # not cancelled: its thread would keep a connection open

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
                changes = await run_in_threadpool(self._changes, known)
            except Exception as error:  # noqa: BLE001 - streams outlive a database that is away for a while
                log.warning("cannot poll the watched jobs", error=str(error))
                continue
            for job_id, (state, blocks) in changes.items():
                watched = self._jobs.get(job_id)
                if watched is None or watched.state != known[job_id][0]:
                    continue  # no longer watched, or loaded anew by a later watcher
                self._take(watched, state, blocks)

    def _take(self, watched: _WatchedJob, state: JobState, blocks: dict[str, list[Block]]) -> None:
        for name in watched.tails.keys() - blocks.keys():
            del watched.tails[name]  # begun during the poll, which did not read this feed: there would be a gap
        for name, new in blocks.items():
            if name in watched.feeds:
                feed, _ = watched.feeds[name]
                watched.tails.setdefault(name, _Tail(feed.count(watched.state), [])).extend(new)
        watched.state = state
        _announce(watched)

    def _load(self, project: str, job_id: str) -> JobState:
        with self._db.read() as session:
            row = session.execute(_states().where(Job.id == job_id, Job.project == project)).one_or_none()
            if row is None:
                raise missing_job(session, project, job_id)
        return JobState(*row[1:])

    def _changes(
        self, known: dict[str, tuple[JobState, list[Feed]]]
    ) -> dict[str, tuple[JobState, dict[str, list[Block]]]]:
        """The states that differ from the `known` ones, and the feeds' new blocks."""
        with self._db.read() as session:
            rows = session.execute(_states().where(Job.id.in_(known))).all()
            states = {row.id: JobState(*row[1:]) for row in rows}
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
        """Blocks after number `after`, from memory where possible; simultaneous watchers share one database read."""
        async with watched.reading:
            upto = feed.count(watched.state)
            if after >= upto:
                return ()
            tail = watched.tails.get(feed.name)
            if tail is not None and tail.start <= after:
                return [item for item in tail.blocks if item[0] > after]
            blocks = await run_in_threadpool(self._read, job_id, feed, after, upto)
            if feed.count(watched.state) == upto:
                watched.tails[feed.name] = _Tail(after, [])
                watched.tails[feed.name].extend(blocks)
            return blocks

    def _read(self, job_id: str, feed: Feed, after: int, upto: int) -> Sequence[Block]:
        with self._db.read() as session:
            return feed.blocks(session, job_id, after, upto)


def sequence_of(session: Session, job_id: str, event_id: str, *, param: str = "after") -> int:
    """The number of the last event that a reader has seen. Raises InvalidRequest for an unknown id."""
    seq = session.scalar(select(Event.seq).where(Event.job_id == job_id, Event.id == event_id))
    if seq is None:
        raise InvalidRequest(f"no event {event_id!r} of {job_id}", param=param, code="invalid_cursor")
    return seq


def block(cursor: str, content: str) -> bytes:
    """One server-sent event: a stream that breaks off after it is resumed at `cursor`."""
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
    """Wakes everything that waits now; later waits are for the next change."""
    watched.changed.set()
    watched.changed = asyncio.Event()


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await changed.wait()
    except TimeoutError:
        return False
