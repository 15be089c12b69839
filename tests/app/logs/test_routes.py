"""What trainers print, over HTTP: pages, the tail, text, live; bounded, and without what must not be read."""

from typing import Any

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.logs import queries
from tests.app.jobs.jobs import new_job


def lines(api: TestClient, job: str, **query: Any) -> list[tuple[int, int, str]]:
    answer = api.get(f"fine_tuning/jobs/{job}/logs", params=query)
    assert answer.status_code == 200, answer.text
    return [(each["line"], each["attempt"], each["text"]) for each in answer.json()["data"]]


def test_lines_are_read_page_by_page(api: TestClient, job: str) -> None:
    """Oldest first, numbered across attempts; `after` and `limit` make any range."""
    assert [number for number, _, _ in lines(api, job)] == [1, 2, 3, 4, 5, 6, 7]
    page = api.get(f"fine_tuning/jobs/{job}/logs", params={"after": "2", "limit": 3}).json()
    assert [each["id"] for each in page["data"]] == ["3", "4", "5"]
    assert (page["has_more"], page["last_id"], page["lines"], page["kept_from"]) == (True, "5", 7, 1)
    assert lines(api, job, after=page["last_id"]) == [(6, 2, "again 6"), (7, 2, "again 7")]
    assert lines(api, job, after=7) == lines(api, job, after=700) == []


def test_the_end_and_one_attempt_are_read_alone(api: TestClient, job: str) -> None:
    """The last lines without the pages before them; what one attempt printed."""
    assert lines(api, job, tail=3) == [(5, 1, "line 5"), (6, 2, "again 6"), (7, 2, "again 7")]
    assert lines(api, job, tail=1, attempt=1) == [(5, 1, "line 5")]
    assert [number for number, _, _ in lines(api, job, attempt=2)] == [6, 7]
    assert lines(api, job, attempt=3) == []
    assert len(lines(api, job, tail=100)) == 7


def test_a_log_is_also_plain_text(api: TestClient, job: str) -> None:
    """By parameter or by Accept; a header says where the next page begins."""
    answer = api.get(f"fine_tuning/jobs/{job}/logs", params={"format": "text", "limit": 2})
    assert (answer.text, answer.headers["x-last-line"], answer.headers["x-has-more"]) == (
        "line 1\nline 2\n",
        "2",
        "true",
    )
    assert answer.headers["content-type"].startswith("text/plain")
    asked = api.get(f"fine_tuning/jobs/{job}/logs", params={"tail": 1}, headers={"accept": "text/plain"})
    assert asked.text == "again 7\n"


def test_what_cannot_be_asked_is_said(api: TestClient, job: str) -> None:
    """Both ways to begin at once, a cursor that is no number, a job that is not there."""
    path = f"fine_tuning/jobs/{job}/logs"
    assert api.get(path, params={"after": "1", "tail": 1}).json()["error"]["param"] == "tail"
    assert api.get(path, params={"after": "x"}).json()["error"]["param"] == "after"
    assert api.get(path, params={"stream": "true", "attempt": 1}).json()["error"]["param"] == "attempt"
    assert api.get(path, params={"stream": "true", "format": "text"}).json()["error"]["param"] == "format"
    for query in ("", "?stream=true", "?tail=5", "?stream=true&tail=5"):
        assert api.get(f"fine_tuning/jobs/ftjob-none/logs{query}").status_code == 404
    assert lines(api, lifecycle_job(api, job)) == []


def lifecycle_job(api: TestClient, like: str) -> str:
    """Another job, which has printed nothing."""
    db: Database = api.app.state.backends.database  # type: ignore[attr-defined]
    return lifecycle.submit(db, new_job())[0].id


def end(db: Database, job: str) -> None:
    with db.write() as session:
        queries.append(session, job, 2, ["the last"])
    lease = lifecycle.claim(db, worker="w", seconds=60)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome("failed", error={"code": "x", "message": "y", "param": None}))
