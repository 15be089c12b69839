"""Curves over HTTP: from behind a point on, and live."""

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from tests.app.conftest import Create
from tests.app.jobs.jobs import claim


def test_points_behind_one_are_read(api: TestClient, create: Create, db: Database) -> None:
    """By its number, over all splits; a stream of a job that has ended is the same points, and ends."""
    job = create()
    lease = claim(db)
    curve = [(step, "train", {"loss": 1.0 / step}) for step in range(1, 4)]
    lifecycle.beat(db, lease, AttemptUpdates(metrics=[*curve, (3, "valid", {"loss": 0.5})]))
    path = f"fine_tuning/jobs/{job['id']}/metrics"
    points = api.get(path).json()["data"]
    later = api.get(path, params={"after": str(points[1]["seq"])}).json()["data"]
    assert later == [point for point in points if point["seq"] > points[1]["seq"]] != []
    assert api.get(path, params={"split": "valid"}).json()["data"] == [
        point for point in points if "valid" in str(point)
    ]

    lifecycle.cancel(db, "default", job["id"])
    stream = api.get(path, params={"stream": "true"}, headers={"last-event-id": str(points[1]["seq"])}).text
    assert [line for line in stream.splitlines() if line.startswith("id: ")] == [
        f"id: {point['seq']}" for point in later
    ]
    assert stream.endswith("data: [DONE]\n\n")


def test_a_wrong_cursor_or_split_is_refused_by_name(api: TestClient, create: Create) -> None:
    path = f"fine_tuning/jobs/{create()['id']}/metrics"
    for query, param in (({"after": "x"}, "after"), ({"split": "test"}, "split"), ({"from_step": "-1"}, "from_step")):
        answer = api.get(path, params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
