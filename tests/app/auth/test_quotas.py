"""What a project may hold: exact, however many ask at once, on each database."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.auth.quotas import QuotaSpent
from app.db import Database, now
from app.files.forms import ReceivedForm
from app.files.queries import store
from app.files.tables import File
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Job
from app.main import create_app
from app.models.tables import Model
from app.storage.blobs import Blob
from tests.app.conftest import AFFINE, rows, serve, upload_to
from tests.app.jobs.jobs import new_job
from tests.conftest import Deployment
from tests.patience import PATIENCE


def at_once(count: int, act) -> int:
    """How many of so many that start together are allowed."""
    start, passed = threading.Barrier(count), []

    def run() -> None:
        start.wait()
        try:
            act()
            passed.append(True)
        except QuotaSpent:
            pass

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return len(passed)


def test_jobs_that_ask_at_once(db: Database):
    """Twelve for five places: exactly five; another project has places of its own."""
    for project in ("a", "b"):
        assert at_once(12, lambda: lifecycle.submit(db, new_job(project=project), active_limit=5)) == 5  # noqa: B023
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 10


def test_files_that_ask_at_once(db: Database):
    """Twelve of forty bytes for a hundred: exactly two."""
    blob = Blob("sha256/ab/abc", "abc", 40)

    def book() -> None:
        upload = ReceivedForm({"purpose": "fine-tune"}, "a.jsonl", blob)
        store(db, upload, project="a", retried=False, limit=100)

    assert at_once(12, book) == 2
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(File)) == 2


def test_an_ended_job_makes_room(db: Database):
    """Queued, running and paused jobs count, ended ones do not; a repeated request is not a new job."""
    job, _ = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="f"), active_limit=1)
    again, replayed = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="f"), active_limit=1)
    assert (again.id, replayed) == (job.id, True)
    lifecycle.pause(db, "default", job.id)
    with pytest.raises(QuotaSpent, match="1 jobs that have not ended and has 1"):
        lifecycle.submit(db, new_job(), active_limit=1)
    lifecycle.cancel(db, "default", job.id)
    lifecycle.submit(db, new_job(), active_limit=1)


# ---- over HTTP


@pytest.fixture
def application(deployment: Deployment):
    return create_app(deployment.settings.model_copy(update={"max_active_jobs": 1, "max_project_bytes": 1000}))


@pytest.fixture
def client(application) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://testserver/v1/") as made:
        yield made


def refusal(answer) -> str:
    assert answer.status_code == 429 and answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers, "waiting would not help"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    return str(error["message"])


def test_a_spent_quota_of_jobs(client: TestClient):
    """429 that nobody repeats, with what would help; after a cancel there is room again."""
    body = {"model": AFFINE, "training_file": upload_to(client)(rows())}
    job = client.post("fine_tuning/jobs", json=body).json()["id"]
    assert "cancel one" in refusal(client.post("fine_tuning/jobs", json=body))
    client.post(f"fine_tuning/jobs/{job}/cancel")
    assert client.post("fine_tuning/jobs", json=body).status_code == 200


def test_a_spent_quota_of_bytes(application, client: TestClient):
    """A file that does not fit is refused and leaves nothing in the storage; a deletion makes room."""
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}}
    first = client.post("files", **form, files={"file": ("a", b"a" * 600)}).json()["id"]
    assert "delete files" in refusal(client.post("files", **form, files={"file": ("b", b"b" * 500)}))
    assert len(blobs(application)) == 1
    assert client.post("files", **form, files={"file": ("c", b"c" * 400)}).status_code == 200
    assert "1,000 stored bytes" in refusal(client.post("files", **form, files={"file": ("d", b"d")}))
    client.delete(f"files/{first}")
    assert client.post("files", **form, files={"file": ("d", b"d")}).status_code == 200


def test_results_count_towards_the_quota(application, client: TestClient):
    """What a model stores beyond its base takes room from uploads, and beyond the limit there are no new jobs."""
    body = {"model": AFFINE, "training_file": upload_to(client)(rows())}
    model = Model(id="ft:x", project="default", owned_by="default", kind="fine_tuned", status="ready", spec=AFFINE)
    model.files, model.tensors, model.stored_bytes = [], [], 900
    with application.state.backends.database.write() as session:
        model.created_at = now(session)
        session.add(model)
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("b", b"b" * 200)}}
    assert "files or models" in refusal(client.post("files", **form))
    assert "stored bytes" in refusal(client.post("fine_tuning/jobs", json=body))
    client.delete("models/ft:x")
    assert client.post("fine_tuning/jobs", json=body).status_code == 200


def test_a_refused_upload_of_bytes_that_are_there_deletes_nothing(application, client: TestClient):
    """Equal content is one blob: what another file needs stays when the second one is refused."""
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"a" * 600)}}
    first = client.post("files", **form).json()["id"]
    refusal(client.post("files", **form))
    assert client.get(f"files/{first}/content").content == b"a" * 600


def test_an_upload_with_a_wrong_form_leaves_nothing(application, client: TestClient):
    """The bytes come before their purpose is judged; when it is wrong they go."""
    assert client.post("files", data={"purpose": "fun"}, files={"file": ("a", b"abc")}).status_code == 400
    assert blobs(application) == []


def test_an_announced_size_is_refused_before_it_is_sent(client: TestClient):
    """Content-Length beyond the quota, and its overhead: not a byte of the body is read."""

    def body():
        raise AssertionError("the body was asked for")
        yield b""

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(1 << 30)}
    refusal(client.post("files", headers=headers, content=body()))


def test_the_sdk_does_not_repeat_what_a_quota_refused(application):
    """One request, and the SDK's RateLimitError with the code that its users look for."""
    with (
        serve(application) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5) as sdk,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        sdk.files.create(file=b"a" * 1001, purpose="fine-tune")
    assert refused.value.code == "insufficient_quota" and refused.value.type == "insufficient_quota"
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"


def blobs(application) -> list[str]:
    root = application.state.backends.storage.root
    return [path.name for path in root.rglob("*") if path.is_file() and not {"incoming", "locks"} & {*path.parts}]
