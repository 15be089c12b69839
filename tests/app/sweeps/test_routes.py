"""Sweeps over HTTP: all or nothing, once per key, within quotas; cancelled and deleted by clear rules."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.audit.tables import AuditLog
from app.db import Database
from app.jobs.queue.tables import Job
from app.sweeps import ranking, views
from app.sweeps.tables import Sweep
from tests.app.conftest import AFFINE
from tests.app.sweeps.sweeps import RATES, body, run

Post = Callable[..., Any]


def of(**values: list[Any]) -> dict[str, Any]:
    """A grid of these hyperparameters."""
    return {"grid": {"hyperparameters": values}}


_AXIS = "grid.hyperparameters"
_POLICIES = [{"freeze": ["weight"]}, {"freeze": ["wieght"]}]
#: What is changed in a sweep that is taken, the field that is at fault then, and the code.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (of(learning_rate=[0.1, -1]), f"{_AXIS}.learning_rate[1]", "invalid_value"),
    (of(lr=[0.1]), f"{_AXIS}.lr[0]", "unknown_field"),
    (of(packing=[False, True]), f"{_AXIS}.packing[1]", "ignored_option"),
    (of(validation_fraction=[0.1, 0.2]), f"{_AXIS}.validation_fraction", "not_comparable"),
    (of(n_epochs=list(range(1, 17)), batch_size=list(range(1, 18))), "grid", "too_many_jobs"),
    ({"grid": {"freeze_policy": _POLICIES}}, "grid.freeze_policy[1].freeze", "invalid_freeze_policy"),
    ({"grid": {"seed": [1, -1]}}, "grid.seed[1]", "invalid_value"),
    ({"grid": {"seed": [1, 1]}}, "grid", "duplicate_job"),
    ({"grid": {}}, "grid", "invalid_request"),
    ({"grid": None}, "", "invalid_value"),
    ({"metric": "accuracy"}, "metric", "unknown_metric"),
    ({"early_stopping": {"type": "hyperband"}}, "early_stopping.type", "invalid_value"),
]


def counts(db: Database) -> tuple[int, int]:
    """Sweeps and jobs that are stored."""
    with db.read() as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) or 0 for table in (Sweep, Job))  # type: ignore[return-value]


def test_children_are_ordinary_jobs_in_the_order_of_the_request(api: TestClient, post: Post) -> None:
    """Each has the seed, the files and the policy of the sweep's job, and its own hyperparameters."""
    sweep = post()
    listed = api.get(f"fine_tuning/sweeps/{sweep['id']}/jobs").json()["data"]
    assert [job["hyperparameters"]["learning_rate"] for job in listed] == RATES
    assert [job["queue_position"] for job in listed] == [1, 2, 3]
    assert {(job["seed"], job["status"], job["sweep_id"]) for job in listed} == {(7, "queued", sweep["id"])}
    assert sweep["job_counts"] == {"total": 3, "queued": 3}
    alone = api.get(f"fine_tuning/jobs/{listed[0]['id']}").json()
    assert alone == {**listed[0], "queue_position": 1}
    events = api.get(f"fine_tuning/jobs/{listed[0]['id']}/events").json()["data"]
    assert [event["message"] for event in events] == ["Job created"]


def test_the_jobs_of_a_sweep_are_paged(api: TestClient, post: Post) -> None:
    """Keyset pages, in the order of the request or from its end."""
    path = f"fine_tuning/sweeps/{post()['id']}/jobs"
    first = api.get(path, params={"limit": 2}).json()
    rest = api.get(path, params={"limit": 2, "after": first["last_id"]}).json()
    assert [len(first["data"]), first["has_more"], len(rest["data"]), rest["has_more"]] == [2, True, 1, False]
    assert api.get(path, params={"order": "desc", "limit": 1}).json()["data"] == rest["data"]


def test_one_bad_job_refuses_the_whole_sweep(api: TestClient, file: str, application: FastAPI) -> None:
    """By the path of what was wrong in the sweep's request; nothing is stored."""
    db: Database = application.state.backends.database
    for more, param, code in REFUSED:
        answer = api.post("fine_tuning/sweeps", json=body(file, **more))
        error = answer.json()["error"]
        assert (answer.status_code, error["param"] or "", error["code"]) == (400, param, code), (more, error)
    assert counts(db) == (0, 0)


def test_a_list_names_the_entry_at_fault(api: TestClient, file: str) -> None:
    """And what is wrong in the common part is found there."""
    entries: list[dict[str, Any]] = [{"seed": 1}, {"hyperparameters": {"max_length": 4}}]
    wanted = body(file, grid=None, variations=entries)
    error = api.post("fine_tuning/sweeps", json=wanted).json()["error"]
    assert (error["param"], error["code"]) == ("variations[1].hyperparameters.max_length", "ignored_option")
    wanted["variations"] = [{"hyperparameters": {"warmup_steps": 3}}]
    wanted["job"]["hyperparameters"]["warmup_ratio"] = 0.1
    error = api.post("fine_tuning/sweeps", json=wanted).json()["error"]
    assert error["param"] == "job.hyperparameters" and "warmup_steps or warmup_ratio" in error["message"]
    missing = body("file-none")
    error = api.post("fine_tuning/sweeps", json=missing).json()["error"]
    assert (error["param"], error["code"]) == ("job.training_file", "not_found")


def test_one_request_one_sweep(api: TestClient, file: str, application: FastAPI) -> None:
    """A key replays; another body under it is refused; the SDK's retry without a key makes nothing new."""
    db: Database = application.state.backends.database
    headers = {"idempotency-key": "a"}
    first = api.post("fine_tuning/sweeps", json=body(file), headers=headers)
    again = api.post("fine_tuning/sweeps", json=body(file), headers=headers)
    assert again.json()["id"] == first.json()["id"] and again.headers["idempotent-replayed"] == "true"
    other = api.post("fine_tuning/sweeps", json=body(file, metric="mse"), headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    retried = api.post("fine_tuning/sweeps", json=body(file), headers={"x-stainless-retry-count": "1"})
    assert retried.json()["id"] == first.json()["id"]
    assert counts(db) == (1, 3)


def test_a_retried_job_is_not_answered_with_a_job_of_a_sweep(api: TestClient, post: Post, file: str) -> None:
    """Though their requests say the same."""
    children = {row["job_id"] for row in post(grid={"seed": [7]})["ranking"]}
    job = body(file)["job"]
    made = api.post("fine_tuning/jobs", json=job, headers={"x-stainless-retry-count": "1"}).json()
    assert made["id"] not in children


def test_a_sweep_counts_as_its_jobs_against_the_quota(api: TestClient, file: str, application: FastAPI) -> None:
    """It is stored as a whole or not at all."""
    backends = application.state.backends
    application.state.backends = type(backends)(
        settings=backends.settings.model_copy(update={"max_active_jobs": 4}),
        database=backends.database,
        storage=backends.storage,
        notifier=backends.notifier,
    )
    assert api.post("fine_tuning/sweeps", json=body(file)).status_code == 200
    refused = api.post("fine_tuning/sweeps", json=body(file, metric="mse"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert counts(backends.database) == (1, 3)


def test_it_is_audited_as_one_action(post: Post, application: FastAPI) -> None:
    """With the sweep as its object."""
    sweep = post()
    with application.state.backends.database.read() as session:
        rows = session.scalars(select(AuditLog).where(AuditLog.action == "createFineTuningSweep")).all()
    assert [row.object_id for row in rows] == [sweep["id"]]


def test_the_state_of_a_sweep_is_that_of_its_jobs(api: TestClient, post: Post, application: FastAPI) -> None:
    """Running until all have ended; ranked by the metric; the best is named."""
    db: Database = application.state.backends.database
    sweep = post()
    ids = [row["job_id"] for row in sweep["ranking"]]
    for loss in (0.5, 0.1):
        run(db, loss)
    halfway = api.get(f"fine_tuning/sweeps/{sweep['id']}").json()
    assert (halfway["status"], halfway["finished_at"]) == ("running", None)
    run(db, 0.3)
    ended = api.get(f"fine_tuning/sweeps/{sweep['id']}").json()
    assert ended["status"] == "succeeded" and ended["finished_at"] >= ended["created_at"]
    assert [(row["rank"], row["job_id"], row["value"]) for row in ended["ranking"]] == [
        (1, ids[1], 0.1),
        (2, ids[2], 0.3),
        (3, ids[0], 0.5),
    ]
    assert ended["best"] == {"job_id": ids[1], "fine_tuned_model": None, "value": 0.1}
    assert {row["verdict"] for row in ended["ranking"]} == {"verified"}


def test_cancelling_cancels_what_has_not_ended(api: TestClient, post: Post, application: FastAPI) -> None:
    """Idempotent; the job that has ended keeps its result; one whose jobs have all ended cannot be cancelled."""
    sweep = post()
    run(application.state.backends.database, 0.5)
    path = f"fine_tuning/sweeps/{sweep['id']}"
    assert api.delete(path).json()["error"]["code"] == "invalid_state"
    cancelled = api.post(f"{path}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["job_counts"] == {"total": 3, "succeeded": 1, "cancelled": 2}
    assert api.post(f"{path}/cancel").json() == cancelled
    child = api.get(f"fine_tuning/jobs/{cancelled['ranking'][-1]['job_id']}/events").json()["data"]
    assert child[0]["message"] == "Job cancelled with its sweep"
    other = post(grid={"seed": [1]})
    run(application.state.backends.database, 0.5)
    refused = api.post(f"fine_tuning/sweeps/{other['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "invalid_state")


def test_deleting_leaves_the_jobs(api: TestClient, post: Post) -> None:
    """And the record's id still works as a cursor."""
    old, new = post(), post(grid={"seed": [1, 2]})
    path = f"fine_tuning/sweeps/{new['id']}"
    api.post(f"{path}/cancel")
    assert api.delete(path).json() == {"id": new["id"], "object": "fine_tuning.sweep", "deleted": True}
    assert api.get(path).status_code == 404
    assert api.get(f"fine_tuning/jobs/{new['ranking'][0]['job_id']}").json()["sweep_id"] == new["id"]
    page = api.get("fine_tuning/sweeps", params={"after": new["id"]}).json()
    assert [sweep["id"] for sweep in page["data"]] == [old["id"]]


def test_sweeps_are_listed_newest_first(api: TestClient, post: Post) -> None:
    """Without their rankings, page by page."""
    ids = [post(metadata={"n": str(number)})["id"] for number in range(3)]
    first = api.get("fine_tuning/sweeps", params={"limit": 2}).json()
    assert [sweep["id"] for sweep in first["data"]] == ids[:0:-1]
    assert first["has_more"] and "ranking" not in first["data"][0]
    rest = api.get("fine_tuning/sweeps", params={"limit": 2, "after": first["last_id"]}).json()
    assert [(sweep["id"], sweep["metadata"]) for sweep in rest["data"]] == [(ids[0], {"n": "0"})]


@pytest.mark.parametrize("field", ["model", "training_file"])
def test_base_and_data_are_the_same_for_all(api: TestClient, file: str, field: str) -> None:
    """A variation has no such field."""
    wanted = body(file, grid=None, variations=[{field: AFFINE if field == "model" else file}])
    error = api.post("fine_tuning/sweeps", json=wanted).json()["error"]
    assert (error["param"], error["code"]) == (f"variations[0].{field}", "unknown_field")


def test_a_job_that_ends_while_its_sweep_is_read(
    api: TestClient, post: Post, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is of one moment: no job is ranked as unfinished in a sweep that has ended."""
    sweep = post()
    run(db, 0.5)
    run(db, 0.25)
    ranked = ranking.ranked

    def ended_meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        rows = ranked(*arguments)
        run(db, 0.125)
        return rows

    monkeypatch.setattr(views, "ranked", ended_meanwhile)
    answer = api.get(f"fine_tuning/sweeps/{sweep['id']}").json()
    assert answer["status"] == "running", answer
    assert api.get(f"fine_tuning/sweeps/{sweep['id']}").json()["status"] == "succeeded"
