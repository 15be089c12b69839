"""PollCache from memory: of the version that is current, of jobs that are the caller's, in few statements for many."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from app.db import Database
from app.errors import NotFound
from app.jobs import views
from app.jobs.live.polls import PollCache, RenderedJob
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease
from tests.app.jobs.jobs import new_job


def submitted(db: Database, project: str = "default") -> str:
    return lifecycle.submit(db, new_job(project=project), active_limit=100)[0].id


def running(db: Database) -> Lease:
    submitted(db)
    lease = lifecycle.claim(db, worker="test", seconds=60)
    assert lease is not None
    return lease


async def read_all(polls: PollCache, project: str, job_ids: list[str]) -> list[RenderedJob]:
    return await asyncio.gather(*(polls.read(project, job_id) for job_id in job_ids))


@contextmanager
def asking(db: Database, note: Callable[..., None]) -> Iterator[None]:
    """Has `note` called with every statement that reads, before it is sent."""
    with db.read() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def counted(db: Database) -> Iterator[list[str]]:
    """The queries of the block."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.extend([statement] if statement.startswith("SELECT") else [])

    with asking(db, note):
        yield asked


def test_many_polls_at_once_are_one_statement(db: Database) -> None:
    """Two hundred polls of a job that was polled before ask for its version, together."""
    job_id = running(db).job_id
    polls = PollCache(db)
    first = asyncio.run(polls.read("default", job_id))
    with counted(db) as asked:
        answers = asyncio.run(read_all(polls, "default", [job_id] * 200))
    assert answers == [first] * 200
    assert len(asked) == 1


def test_polls_of_many_jobs_cost_what_a_page_does(db: Database) -> None:
    """Thirty jobs for the first time: each answer is that of a list, in as many statements as for three."""
    job_ids = [running(db).job_id for _ in range(3)] + [submitted(db) for _ in range(30)]
    polls = PollCache(db)
    with counted(db) as few:
        asyncio.run(read_all(polls, "default", [job_ids[0], *job_ids[-2:]]))
    with counted(db) as many:
        answers = asyncio.run(read_all(PollCache(db), "default", job_ids))
    assert len(many) <= len(few)
    with db.read() as session:
        expected = [views.read(session, "default", job_id)[0] for job_id in job_ids]
    for answer, job in zip(answers, expected, strict=True):
        assert json.loads(answer.body)["queue_position"] == job.queue_position
        assert json.loads(answer.body)["id"] == job.id


def test_every_change_is_seen_by_the_next_poll(db: Database) -> None:
    """Each report of the worker, and the end, is in the answer to a poll that is asked after it."""
    lease = running(db)
    polls = PollCache(db)
    tags = []
    for step in (1, 2, 3):
        lifecycle.beat(db, lease, AttemptUpdates(progress={"step": step, "total_steps": 3}))
        written = asyncio.run(polls.read("default", lease.job_id))
        assert json.loads(written.body)["progress"]["step"] == step
        tags.append(written.etag)
    lifecycle.cancel(db, "default", lease.job_id)
    written = asyncio.run(polls.read("default", lease.job_id))
    assert (json.loads(written.body)["status"], written.ended) == ("cancelled", True)
    assert len({*tags, written.etag}) == 4


def test_a_place_in_the_queue_moves_without_the_row(db: Database) -> None:
    """The job ahead is cancelled: the next poll of the one behind it says 1, under another tag."""
    ahead, behind = submitted(db), submitted(db)
    polls = PollCache(db)
    before = asyncio.run(polls.read("default", behind))
    lifecycle.cancel(db, "default", ahead)
    after = asyncio.run(polls.read("default", behind))
    assert [json.loads(each.body)["queue_position"] for each in (before, after)] == [2, 1]
    assert before.etag != after.etag


def test_a_job_in_memory_is_its_projects_alone(db: Database) -> None:
    """Another project's poll of the same id is not found, also at the same moment."""
    job_id = running(db).job_id
    polls = PollCache(db)
    asyncio.run(polls.read("default", job_id))

    async def both() -> list[Any]:
        asked = (polls.read(project, job_id) for project in ("default", "other", "default"))
        return await asyncio.gather(*asked, return_exceptions=True)

    mine, theirs, again = asyncio.run(both())
    assert mine == again
    assert isinstance(theirs, NotFound)
    assert theirs.param == "fine_tuning_job_id"


def test_what_is_kept_has_an_end(db: Database) -> None:
    """Of three jobs with room for two, the one that was written first is read again."""
    job_ids = [running(db).job_id for _ in range(3)]
    polls = PollCache(db, most=2)
    for job_id in job_ids:
        asyncio.run(polls.read("default", job_id))
    costs = []
    for job_id in (job_ids[2], job_ids[0]):
        with counted(db) as asked:
            asyncio.run(polls.read("default", job_id))
        costs.append(len(asked))
    assert costs[0] == 1 < costs[1]


def test_a_database_that_is_away_fails_the_polls_of_that_moment(db: Database) -> None:
    """The error reaches whoever asked; nothing stale is told instead, and the next poll is answered."""
    job_id = running(db).job_id
    polls = PollCache(db)
    asyncio.run(polls.read("default", job_id))

    def fail(*_: object) -> None:
        raise ConnectionError("away")

    with asking(db, fail), pytest.raises(ConnectionError):
        asyncio.run(polls.read("default", job_id))
    assert asyncio.run(polls.read("default", job_id)).ended is False
