"""Files and models that are deleted while a job that names them is posted: the request that comes first wins."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.db import Database, now
from app.files.tables import File
from app.jobs.queue import checkpoints
from app.jobs.queue.tables import Job
from app.jobs.requests import submission, submit
from app.models.tables import Model
from tests.app.conftest import AFFINE, rows, upload_to
from tests.patience import PATIENCE

#: How long the second of two has for going wrong while the first stands still. It decides no test that passes.
HEAD_START = 0.3


@pytest.fixture
def db(application: FastAPI) -> Database:
    made: Database = application.state.backends.database
    return made


@pytest.fixture(params=["training_file", "validation_file"])
def named(request: pytest.FixtureRequest, api: TestClient) -> dict[str, Any]:
    """A request that names two files, and which of them is deleted."""
    upload = upload_to(api)
    body = {"model": AFFINE, "training_file": upload(rows()), "validation_file": upload(rows(4), name="held.jsonl")}
    return {"body": body, "param": request.param, "file": body[request.param]}


@contextmanager
def standing_still(db: Database, table: type[Job | File | Model]) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first transaction that makes or removes such a row stops before its commit (`there`) until it may `go`."""
    there, go = threading.Event(), threading.Event()

    def stop(session: Session, _flush: object) -> None:
        if not there.is_set() and any(isinstance(row, table) for row in (*session.new, *session.deleted)):
            there.set()
            assert go.wait(PATIENCE)

    event.listen(db.writers, "after_flush", stop)
    try:
        yield there, go
    finally:
        go.set()
        event.remove(db.writers, "after_flush", stop)


def beside(ask: Callable[[], Any]) -> Callable[[], Any]:
    """Asks in a thread of its own; what is returned waits for the answer."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()

    def answer() -> Any:
        thread.join(PATIENCE)
        return found[0]

    return answer


def crossing(
    db: Database, table: type[Job | File | Model], first: Callable[[], Any], second: Callable[[], Any]
) -> tuple[Any, Any]:
    """Both answers: the second is asked while the first has written a row of `table` and not yet committed it."""
    with standing_still(db, table) as (there, go):
        one = beside(first)
        assert there.wait(PATIENCE)
        other = beside(second)
        go.wait(HEAD_START)
        go.set()
        return one(), other()


def jobs(db: Database) -> int:
    with db.read() as session:
        return session.scalars(select(func.count()).select_from(Job)).one()


def test_a_file_is_deleted_while_its_job_is_being_stored(api: TestClient, db: Database, named: dict[str, Any]) -> None:
    """The row is written and not yet committed: the deletion waits for it, and is refused with the job."""
    job, refusal = crossing(
        db,
        Job,
        lambda: api.post("fine_tuning/jobs", json=named["body"]),
        lambda: api.delete(f"files/{named['file']}"),
    )
    assert job.status_code == 200, job.text
    assert refusal.status_code == 409
    assert [each["message"] for each in refusal.json()["error"]["errors"]] == [job.json()["id"]]
    assert api.get(f"files/{named['file']}/content").status_code == 200


def test_a_job_is_posted_while_its_file_is_being_deleted(api: TestClient, db: Database, named: dict[str, Any]) -> None:
    """The row is removed and not yet committed: the job waits for it, and is refused as one that names no file."""
    gone, refusal = crossing(
        db,
        File,
        lambda: api.delete(f"files/{named['file']}"),
        lambda: api.post("fine_tuning/jobs", json=named["body"]),
    )
    assert gone.status_code == 200
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (404, named["param"])
    assert jobs(db) == 0


def test_a_file_is_deleted_between_the_checks_of_a_job_and_its_row(
    api: TestClient, db: Database, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was well when the request was looked at; what is stored is looked for once more."""

    def prepared(*args: Any, **options: Any) -> Job:
        job = prepare(*args, **options)
        assert api.delete(f"files/{named['file']}").status_code == 200
        return job

    prepare = submit.prepare  # type: ignore[attr-defined]
    monkeypatch.setattr(submit, "prepare", prepared)
    refusal = api.post("fine_tuning/jobs", json=named["body"])
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (404, named["param"])
    assert jobs(db) == 0


def test_a_file_is_deleted_while_a_request_reads_it(
    api: TestClient, db: Database, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was found and its bytes are gone: refused by its name, as a moment earlier and a moment later."""

    def find(*args: Any) -> Any:
        files = find_files(*args)
        assert api.delete(f"files/{named['file']}").status_code == 200
        return files

    find_files = submission.find_files  # type: ignore[attr-defined]
    monkeypatch.setattr(submission, "find_files", find)
    refusal = api.post("fine_tuning/jobs", json=named["body"])
    monkeypatch.undo()
    assert refused_as_later(api, named["body"], refusal) == (404, named["param"], "not_found")
    assert f"no file '{named['file']}'" in refusal.json()["error"]["message"]
    assert jobs(db) == 0


def test_a_file_whose_bytes_are_lost_is_named(api: TestClient, application: FastAPI, named: dict[str, Any]) -> None:
    """The row is there: the message says what an operator does about it, and `param` which file it is."""
    application.state.backends.storage.delete(blob_of(application, named["file"]))
    refusal = api.post("fine_tuning/jobs", json=named["body"])
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (404, named["param"])
    assert "permafrost doctor" in refusal.json()["error"]["message"]


def blob_of(application: FastAPI, file_id: str) -> str:
    database: Database = application.state.backends.database
    with database.read() as session:
        return session.get_one(File, file_id).blob


@pytest.fixture
def based(api: TestClient, db: Database) -> dict[str, Any]:
    """A request for a job that starts from the result of another."""
    model = Model(id="ft:affine:default::j", project="default", owned_by="default", kind="fine_tuned", status="ready")
    with db.write() as session:
        model.created_at, model.spec, model.files, model.tensors = now(session), dict(AFFINE), [], []
        session.add(model)
    return {"model": "ft:affine:default::j", "training_file": upload_to(api)(rows())}


def test_a_model_is_deleted_while_its_job_is_being_stored(api: TestClient, db: Database, based: dict[str, Any]) -> None:
    job, refusal = crossing(
        db,
        Job,
        lambda: api.post("fine_tuning/jobs", json=based),
        lambda: api.delete(f"models/{based['model']}"),
    )
    assert job.status_code == 200, job.text
    assert refusal.status_code == 409
    assert [each["message"] for each in refusal.json()["error"]["errors"]] == [job.json()["id"]]


def test_a_job_is_posted_while_its_model_is_being_deleted(api: TestClient, db: Database, based: dict[str, Any]) -> None:
    gone, refusal = crossing(
        db,
        Model,
        lambda: api.delete(f"models/{based['model']}"),
        lambda: api.post("fine_tuning/jobs", json=based),
    )
    assert gone.status_code == 200
    assert refused_as_later(api, based, refusal) == (400, "model", "model_not_found")
    assert jobs(db) == 0


def test_a_checkpoint_is_dropped_while_its_job_is_posted(
    api: TestClient, db: Database, based: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run drops it between the checks and the row; the reason is in the message either way."""

    def prepared(*args: Any, **options: Any) -> Job:
        job = prepare(*args, **options)
        with db.write() as session:
            checkpoints.clear(session.get_one(Model, based["model"]), "the run kept newer checkpoints")
        return job

    prepare = submit.prepare  # type: ignore[attr-defined]
    monkeypatch.setattr(submit, "prepare", prepared)
    refusal = api.post("fine_tuning/jobs", json=based)
    monkeypatch.undo()
    assert refused_as_later(api, based, refusal) == (400, "model", "model_gone")
    assert "the run kept newer checkpoints" in refusal.json()["error"]["message"]


def refused_as_later(api: TestClient, body: dict[str, Any], refusal: Any) -> tuple[int, str, str]:
    """Status, param and code of a refusal that is the same for a request that comes after everything is over."""
    later = api.post("fine_tuning/jobs", json=body)
    seen, then = (
        (each.status_code, each.json()["error"]["param"], each.json()["error"]["code"]) for each in (refusal, later)
    )
    assert seen == then
    return seen
