"""Feeds of a job as server-sent events."""

from starlette.testclient import TestClient

from app.db import Database
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim, finish


def test_a_stream_goes_on_where_it_was_dropped(api: TestClient, create: Create, db: Database) -> None:
    """`Last-Event-ID`, as a browser sends it: no gap, no repeat. It is newer than the `after` of the URL."""
    job = create()
    finish(db, claim(db))
    path = f"fine_tuning/jobs/{job['id']}/events"
    whole = api.get(path, params={"stream": "true"}).text
    ids = [line.removeprefix("id: ") for line in whole.splitlines() if line.startswith("id: ")]
    assert len(ids) == 4
    query = {"stream": "true", "after": ids[0]}
    rest = api.get(path, params=query, headers={"last-event-id": ids[1]}).text
    assert [line.removeprefix("id: ") for line in rest.splitlines() if line.startswith("id: ")] == ids[2:]
    assert rest.endswith("data: [DONE]\n\n")
