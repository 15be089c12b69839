"""Lists of jobs: filters by labels and states, and that every page is read from an index that has its order."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.listing import Filters, page
from app.jobs.queue import lifecycle
from tests.app.conftest import AFFINE, Create, rows, upload_to
from tests.app.jobs.jobs import claim, finish, new_job
from tests.app.jobs.plans import crowd, plan_of


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


@pytest.mark.parametrize("more", [{}, {"statuses": ["succeeded"]}], ids=["alone", "with a state"])
def test_a_label_that_most_jobs_have_is_read_in_order(db: Database, more: dict[str, Any]) -> None:
    """Also where the database chooses freely: it must not think that few rows match, and sort them all."""
    crowd(db)
    filters = Filters(labels=[("team", "b")], **more)
    plan = plan_of(db, lambda session: page(session, "default", filters, after=None, limit=20, order="desc"), free=True)
    assert "TEMP B-TREE" not in plan and "Sort" not in plan, plan


def test_lists_filter_by_state_model_time_and_metadata(api: TestClient, create: Create) -> None:
    """Filters narrow; the page's ends and has_more are always there."""
    one, two = create(metadata={"team": "a", "run 'x'": "1"}), create(metadata={"team": "b"})
    bare = create()
    api.post(f"fine_tuning/jobs/{two['id']}/cancel")

    def ids(**query: Any) -> list[str]:
        page = api.get("fine_tuning/jobs", params=query).json()
        assert page["has_more"] is False
        return [job["id"] for job in page["data"]]

    assert ids() == [bare["id"], two["id"], one["id"]]
    assert ids(order="asc") == [one["id"], two["id"], bare["id"]]
    assert ids(status="cancelled") == [two["id"]]
    assert ids(**{"status[]": ["cancelled", "queued"]}) == [bare["id"], two["id"], one["id"]]
    assert ids(model="affine", created_after=0, created_before=4_000_000_000) == [bare["id"], two["id"], one["id"]]
    assert ids(model="other") == ids(created_after=4_000_000_000) == ids(created_before=1) == []
    assert ids(**{"metadata[team]": "a"}) == [one["id"]]
    assert ids(**{"metadata[run 'x']": "1"}) == [one["id"]]
    assert ids(**{"metadata[team]": "a", "metadata[run 'x']": "2"}) == []
    assert ids(metadata="null") == [bare["id"]]


def test_lists_filter_by_verdict(application: FastAPI, api: TestClient, create: Create) -> None:
    """As the answer's own `evidence.verdict` has it, also of jobs that wait or ended without evidence."""
    db: Database = application.state.backends.database
    jobs = {}
    for verdict in ("verified", "violated", "incomplete"):
        jobs[verdict] = create()["id"]
        finish(db, claim(db), verdict=verdict)
    jobs["none"] = create()["id"]
    api.post(f"fine_tuning/jobs/{jobs['none']}/cancel")
    jobs["pending"] = create()["id"]

    for verdict, job in jobs.items():
        (found,) = api.get("fine_tuning/jobs", params={"verdict": verdict}).json()["data"]
        assert (found["id"], found["evidence"]["verdict"]) == (job, verdict)
    assert ids(api, **{"verdict[]": ["none", "violated"]}) == [jobs["none"], jobs["violated"]]
    assert ids(api, verdict="violated", status="failed") == []
    for name in ("verdict", "verdict[]"):
        refused = api.get("fine_tuning/jobs", params={name: "green"})
        assert (refused.status_code, refused.json()["error"]["param"].removesuffix("[0]")) == (400, "verdict")


def test_pages_stay_whole_while_jobs_arrive_and_change(api: TestClient, create: Create) -> None:
    """A cursor is a place in time: new jobs do not shift pages, and a cursor that left the filter still works."""
    made = [create()["id"] for _ in range(4)]
    page = api.get("fine_tuning/jobs", params={"limit": 2, "status": "queued"}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (made[:1:-1], True)
    assert (page["first_id"], page["last_id"]) == (made[3], made[2])
    create()
    api.post(f"fine_tuning/jobs/{page['last_id']}/cancel")
    rest = api.get("fine_tuning/jobs", params={"limit": 2, "status": "queued", "after": page["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (made[1::-1], False)
