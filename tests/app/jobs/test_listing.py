"""Lists of jobs: filters by labels and states, and that every page is read from an index that has its order."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from starlette.testclient import TestClient

from app.db import Database, now
from app.jobs import views
from app.jobs.listing import Filters, page
from app.jobs.queue import lifecycle, waiting
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.queries import claimable
from app.jobs.queue.tables import Job, Label
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.jobs.jobs import new_job


@pytest.fixture
def file(api: TestClient) -> str:
    return upload_to(api)(rows())


def create(api: TestClient, file: str, **more: Any) -> dict[str, Any]:
    answer = api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ids(api: TestClient, **query: Any) -> list[str]:
    return [job["id"] for job in api.get("fine_tuning/jobs", params=query).json()["data"]]


def test_tags_come_back_and_are_found(api: TestClient, file: str) -> None:
    """Each once, in the order given; a list with several tags has the jobs that carry all of them."""
    both = create(api, file, tags=["nightly", "gpu", "nightly"])
    one = create(api, file, tags=["gpu"], metadata={"gpu": "gpu"})
    create(api, file)
    assert (both["tags"], one["tags"]) == (["nightly", "gpu"], ["gpu"])
    assert ids(api, tag="gpu") == [one["id"], both["id"]]
    assert ids(api, tag=["gpu", "nightly"]) == ids(api, **{"tag[]": ["gpu", "nightly"]}) == [both["id"]]
    assert ids(api, tag="gpu", **{"metadata[gpu]": "gpu"}) == [one["id"]]
    assert ids(api, tag="gp") == []


def test_a_filtered_list_is_read_in_pages(api: TestClient, file: str) -> None:
    """`after` goes on behind a job, whether or not it still has what the list asks for."""
    made = [create(api, file, metadata={"team": "a"})["id"] for _ in range(5)]
    other = create(api, file, metadata={"team": "b"})["id"]
    query = {"metadata[team]": "a", "limit": "2"}
    first = api.get("fine_tuning/jobs", params=query).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (made[:2:-1], True)
    assert ids(api, **query, after=first["last_id"]) == [made[2], made[1]]
    assert ids(api, **query, after=other) == made[:2:-1]
    assert ids(api, **query, order="asc", after=made[0]) == [made[1], made[2]]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tags": ["x" * 65]}, "tags[0]"),
        ({"tags": [""]}, "tags[0]"),
        ({"tags": [str(n) for n in range(17)]}, "tags"),
        ({"retries": -1}, "retries"),
        ({"max_run_seconds": 0}, "max_run_seconds"),
        ({"max_run_seconds": 1, "hyperparameters": {"max_run_seconds": 2}}, None),
    ],
)
def test_controls_out_of_range_are_refused(client: TestClient, body: dict[str, Any], param: str | None) -> None:
    """By field; a limit that is given twice is refused, not guessed."""
    answer = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": "file-1", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_limit_of_a_run_is_where_the_trainer_looks_for_it(client: TestClient) -> None:
    """A control of the job at the top of the request and of the answer; a setting among the trainer's others."""
    file = upload_to(client)(rows())
    job = create(client, file, max_run_seconds=90, hyperparameters={"n_epochs": 2}, retries=0)
    assert (job["max_run_seconds"], job["retries"]) == (90, 0)
    assert job["hyperparameters"]["max_run_seconds"] == 90
    assert job["hyperparameters"]["n_epochs"] == 2
    assert create(client, file, hyperparameters={"max_run_seconds": 5})["max_run_seconds"] == 5


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3), (None, 4)])
def test_a_job_says_how_often_it_is_tried_again(db: Database, retries: int | None, attempts: int) -> None:
    """Its own bound wins over the service's, here four crashes."""
    job, _ = lifecycle.submit(db, new_job(retries=retries))
    for attempt in range(1, attempts + 1):
        with db.write() as session:
            session.get_one(Job, job.id).not_before = None
        lease = lifecycle.claim(db, worker="w", seconds=60)
        assert lease is not None
        status = lifecycle.crash(db, lease, "killed", limit=4)
        assert status == ("failed" if attempt == attempts else "queued")


def test_places_are_told_for_a_page_as_for_one(db: Database) -> None:
    """By priority, then age; a paused job has none."""
    for n in range(4):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}", priority=n % 2))
    lifecycle.pause(db, "default", "ftjob-0")
    with db.read() as session:
        found, _ = page(session, "default", Filters(), after=None, limit=10, order="asc")
        assert [job.queue_position for job in views.shown(session, found)] == [None, 1, 3, 2]
        assert [views.shown(session, [job])[0].queue_position for job in found] == [None, 1, 3, 2]


def test_places_are_counted_so_far_and_no_further(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of any length costs a poll what a queue of a thousand does."""
    monkeypatch.setattr(waiting, "_AHEAD", waiting.ahead(2))
    monkeypatch.setattr(waiting, "_FIRST", waiting.first(2))
    monkeypatch.setattr(waiting, "COUNTED", 2)
    for n in range(5):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}"))
    with db.read() as session:
        found, _ = page(session, "default", Filters(), after=None, limit=10, order="asc")
        assert [job.queue_position for job in views.shown(session, found)] == [1, 2, 3, 3, 3]
        assert [views.shown(session, [job])[0].queue_position for job in found] == [1, 2, 3, 3, 3]


def test_a_waiting_job_is_told_when_it_will_start(db: Database) -> None:
    """From what the running jobs say is left of them, then from how long this project's jobs took."""
    ended, _ = lifecycle.submit(db, new_job(id="ftjob-ended"))
    lease = lifecycle.claim(db, worker="w", seconds=60)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome("succeeded"))
    with db.write() as session:
        row = session.get_one(Job, ended.id)
        assert row.started_at is not None
        row.finished_at = row.started_at + timedelta(seconds=100)
    for n in range(3):
        lifecycle.submit(db, new_job(id=f"ftjob-{n}"))

    def starts() -> list[int | None]:
        with db.read() as session:
            found, _ = page(session, "default", Filters(statuses=["queued"]), after=None, limit=9, order="asc")
            at = now(session).timestamp()
            told = [job.estimated_start for job in views.shown(session, found)]
        return [None if each is None else round((each - at) / 10) * 10 for each in told]

    assert starts() == [None, None, None]  # nothing runs, so nobody knows whether anything will
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    assert starts() == [100, 200]
    lifecycle.beat(db, lease, AttemptUpdates(progress={"step": 1, "eta_seconds": 40}))
    assert starts() == [40, 140]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (Filters(), "ix_jobs_project_created"),
        (Filters(statuses=["running"]), "ix_jobs_project_status_created"),
        (Filters(model="affine"), "ix_jobs_project_model_created"),
        (Filters(labels=[("team", "a")]), "job_labels"),
        (Filters(labels=[("", "nightly")], statuses=["queued"]), "job_labels"),
    ],
    ids=["all", "status", "model", "metadata", "tag"],
)
def test_pages_come_from_an_index_in_their_own_order(db: Database, filters: Filters, index: str) -> None:
    """Nothing is sorted and no row is read for nothing: a page of a million jobs costs what one of a thousand does."""
    crowd(db)
    lifecycle.submit(db, new_job(id="ftjob-a", model="affine", meta={"team": "a"}, tags=["nightly"]))
    plan = plan_of(db, lambda session: page(session, "default", filters, after="ftjob-a", limit=20, order="desc"))
    assert index in plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan and "SCAN jobs" not in plan, plan


def test_the_next_job_is_taken_from_an_index(db: Database) -> None:
    """The queue's own: however many wait, one row is read."""
    lifecycle.submit(db, new_job())
    crowd(db)
    plan = plan_of(db, lambda session: session.scalars(claimable(now(session)).limit(1)).all())
    assert "ix_jobs_waiting" in plan
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan


def crowd(db: Database) -> None:
    """Five hundred finished jobs of others, so that the planner has something to choose between."""
    with db.write() as session:
        at = now(session)
        given = {"created_at": at, "status": "succeeded", "finished_at": at, "result_files": []}
        jobs = [new_job(id=f"ftjob-{n}", model="other", **given) for n in range(500)]
        session.add_all(jobs)
        session.flush()
        session.add_all(Label(project="default", name="team", value="b", created_at=at, job_id=job.id) for job in jobs)
    with db.write() as session:
        session.execute(text("ANALYZE"))


def plan_of(db: Database, ask: Any) -> str:
    """How the database reads the last query of `ask`; PostgreSQL is told not to scan tables that fit into a page."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    with db.read() as session:
        bind = session.get_bind()
        event.listen(bind, "before_cursor_execute", note)
        try:
            ask(session)
        finally:
            event.remove(bind, "before_cursor_execute", note)
        statement, parameters = asked[-1]
        if not db.sqlite:
            for each in ("seqscan", "bitmapscan", "sort"):
                session.execute(text(f"SET LOCAL enable_{each} = off"))
        explain = "EXPLAIN QUERY PLAN" if db.sqlite else "EXPLAIN"
        return "\n".join(str(row) for row in session.connection().exec_driver_sql(f"{explain} {statement}", parameters))


def test_labels_go_with_their_job(db: Database) -> None:
    """No row is left when a job's is deleted."""
    job, _ = lifecycle.submit(db, new_job(meta={"a": "b"}, tags=["t"]))
    with db.write() as session:
        assert session.query(Label).count() == 2
        session.delete(session.get_one(Job, job.id))
    with db.read() as session:
        assert session.query(Label).count() == 0
