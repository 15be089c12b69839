"""Server-sent events over HTTP: the parameters of a job's feeds, and streams that can still be refused."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from app.auth.caller import AsReader
from app.errors import InvalidRequest
from app.http.dependencies import JobId
from app.jobs.live.watcher import Feed, JobWatcher


async def _watcher(request: Request) -> JobWatcher:
    return cast(JobWatcher, request.app.state.watcher)


WatcherDep = Annotated[JobWatcher, Depends(_watcher)]


@dataclass(frozen=True, slots=True)
class FeedReader:
    """A request for a feed of a job (its events, curves or logs), as a list or live."""

    fine_tuning_job_id: JobId
    caller: AsReader
    watcher: WatcherDep
    stream: Annotated[bool, Query(description="Server-sent events from `after` to the end of the job.")] = False
    last_event_id: Annotated[str | None, Header(max_length=64, description="Where a dropped stream goes on.")] = None

    def behind(self, after: str | None) -> str | None:
        """The cursor of the last item seen: a stream that broke off has seen more than its URL says."""
        return self.last_event_id or after if self.stream else after

    async def live(self, feed: Feed, *, after: int) -> StreamingResponse:
        """The feed as server-sent events, from behind number `after` on. Raises NotFound for an unknown job."""
        return await _streamed(self.watcher.stream(self.caller.project, self.fine_tuning_job_id, feed, after=after))


FeedReaderDep = Annotated[FeedReader, Depends()]


async def _streamed(blocks: AsyncIterator[bytes]) -> StreamingResponse:
    """The stream as a response. Its first block is read first, so an unknown job is a 404 and not a broken stream."""
    first = await anext(blocks)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_chain(first, blocks), 200, headers, "text/event-stream")


def number(cursor: str | None, *, what: str) -> int:
    """A numeric cursor as an integer; 0 without one. Raises InvalidRequest for anything else."""
    if cursor is None:
        return 0
    if not re.fullmatch(r"\d{1,9}", cursor):
        message = f"after: must be the number of {what}, not {cursor!r}"
        raise InvalidRequest(message, param="after", code="invalid_cursor")
    return int(cursor)


async def _chain(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(cast(Any, blocks)):
        yield first
        async for block in blocks:
            yield block
