"""Server-sent events over HTTP: what a job's feeds are asked for, and streams that are refused before they begin."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from app.auth.caller import Who
from app.errors import InvalidRequest
from app.http.dependencies import JobId
from app.jobs.live.watcher import Feed, JobWatcher


async def _watcher(request: Request) -> JobWatcher:
    return cast(JobWatcher, request.app.state.watcher)


Watch = Annotated[JobWatcher, Depends(_watcher)]


@dataclass(frozen=True, slots=True)
class Reader:
    """Of something of a job that grows: its events, its curves, its logs. As a list, or live."""

    fine_tuning_job_id: JobId
    who: Who
    watcher: Watch
    stream: Annotated[bool, Query(description="Server-sent events from `after` to the end of the job.")] = False
    last_event_id: Annotated[str | None, Header(max_length=64, description="Where a dropped stream goes on.")] = None

    def behind(self, after: str | None) -> str | None:
        """The last thing that was seen: a stream that broke off has seen more than its address says."""
        return self.last_event_id or after if self.stream else after

    async def live(self, feed: Feed, *, after: int) -> StreamingResponse:
        return await _streamed(self.watcher.stream(self.who.project, self.fine_tuning_job_id, feed, after=after))


Reading = Annotated[Reader, Depends()]


async def _streamed(blocks: AsyncIterator[bytes]) -> StreamingResponse:
    """The stream as an answer. Its first block comes before, so that an unknown job is a 404 and no broken stream."""
    first = await anext(blocks)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_chain(first, blocks), 200, headers, "text/event-stream")


def number(cursor: str | None, *, what: str) -> int:
    """A cursor that is a number; 0 where there is none."""
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
