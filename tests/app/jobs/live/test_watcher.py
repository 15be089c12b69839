"""One poll for all watchers of all jobs."""

import threading
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app.db import Database
from app.jobs.live.watcher import JobWatcher
from tests.app.conftest import AFFINE, rows, upload_to
from tests.patience import PATIENCE


def test_many_watchers_cost_the_database_what_one_does(
    socket_url: str, embedded: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll makes as many queries for 60 watchers of the three feeds of a job as for one watcher."""
    db: Database = embedded.state.backends.database
    polls = CountedPolls(db)
    monkeypatch.setattr(JobWatcher, "_changes", polls.counted(JobWatcher._changes))
    limits = httpx2.Limits(max_connections=100)
    with httpx2.Client(base_url=f"{socket_url}/v1/", limits=limits, timeout=PATIENCE) as client:
        file = upload_to(client)(rows())
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]

        def queries_of_four_polls(watchers: int) -> int:
            paths = [f"fine_tuning/jobs/{job}/{feed}?stream=true" for feed in ("events", "metrics", "logs")]
            streams = [client.stream("GET", paths[number % 3]) for number in range(watchers)]
            blocks = [stream.__enter__().iter_bytes() for stream in streams]
            for stream_blocks in blocks:
                next(stream_blocks)
            queries = polls.queries_of_next(4)
            for stream in streams:
                stream.__exit__(None, None, None)
            return queries

        one = queries_of_four_polls(1)
        assert one >= 4
        # Beside the polls, each feed's backlog is read once for all of its followers.
        assert queries_of_four_polls(60) <= one + 2 * 3


class CountedPolls:
    """Counts the polls of a watcher, and all the queries that the database answers between them."""

    def __init__(self, db: Database) -> None:
        self._queries = 0
        self._polled = threading.Condition()
        self._polls: list[int] = []
        for engine in db._engines:
            event.listen(engine, "before_cursor_execute", self._count)

    def counted(self, poll: Any) -> Any:
        def counted_poll(*arguments: Any) -> Any:
            changes = poll(*arguments)
            with self._polled:
                self._polls.append(self._queries)
                self._polled.notify_all()
            return changes

        return counted_poll

    def queries_of_next(self, polls: int) -> int:
        """The queries between the end of the next poll and the end of the poll that comes `polls` later."""
        with self._polled:
            first = len(self._polls)
            assert self._polled.wait_for(lambda: len(self._polls) > first + polls, timeout=PATIENCE)
            return self._polls[first + polls] - self._polls[first]

    def _count(self, *_: object) -> None:
        self._queries += 1
