"""Requests that come twice: a server that dies after the commit and before the answer, and one that is still at it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from openai import OpenAI
from starlette.testclient import TestClient

from app.jobs.queue import lifecycle
from app.jobs.queue.idempotency import KeyReused
from app.jobs.requests import submission
from tests.app.conftest import AFFINE, Create, rows, upload_to
from tests.app.jobs.jobs import new_job
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.servers import free_port

ROOT = Path(__file__).parents[4]
#: `permafrost serve --no-worker`, but for this: it dies once, right after a job was committed.
DYING = """
import os, sys
from pathlib import Path
from app.jobs.queue import lifecycle
from app.settings import Settings
from app.cli.serve import serve

submit, once = lifecycle.submit, Path(sys.argv[1])

def submit_and_die(*given, **more):
    found = submit(*given, **more)
    if not once.exists():
        once.touch()
        os._exit(9)
    return found

lifecycle.submit = submit_and_die
serve(Settings(), with_worker=False)
"""


class Phoenix:
    """A server that is started again, on the same port, whenever it dies."""

    def __init__(self, environment: dict[str, str], once: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
        self.port = free_port()
        self._environment = inherited | environment | {"PERMAFROST_PORT": str(self.port)}
        self._command = [sys.executable, "-c", DYING, str(once)]
        self._over = threading.Event()
        self.deaths: list[int] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> str:
        self._process = self._start()
        self._thread.start()
        url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + PATIENCE
        while not _answers(f"{url}/healthz"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return f"{url}/v1"

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._process.terminate()
        self._thread.join(PATIENCE)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, env=self._environment)

    def _watch(self) -> None:
        while not self._over.is_set():
            code = self._process.wait()
            if not self._over.is_set():
                self.deaths.append(code)
                self._process = self._start()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=PATIENCE).is_success
    except httpx2.TransportError:
        return False


@pytest.fixture
def phoenix(deployment: Deployment, tmp_path: Path) -> Iterator[Phoenix]:
    from migrations.tables import tables
    from migrations.upgrade import upgrade

    tables().drop_all(deployment.db.engine)
    upgrade(deployment.settings.database)
    yield Phoenix(deployment.environment, tmp_path / "died")


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "a key of the caller's"])
def test_a_server_that_dies_before_it_answers_makes_one_job(phoenix: Phoenix, key: str | None) -> None:
    """The SDK sees a dropped connection and asks again, by itself and unmodified: with a key, and without one by its
    retry header. One job is there, and it is the one that the SDK was told of."""
    with phoenix as url, OpenAI(base_url=url, api_key="none", max_retries=30) as sdk:
        file = sdk.files.create(file=("a.jsonl", "\n".join(map(json.dumps, rows())).encode()), purpose="fine-tune").id
        headers: Any = {"idempotency-key": key} if key else {}
        job = sdk.fine_tuning.jobs.create(
            model="-", training_file=file, extra_body={"model": AFFINE}, extra_headers=headers
        )
        assert [each.id for each in sdk.fine_tuning.jobs.list()] == [job.id]
        events = [event.message for event in sdk.fine_tuning.jobs.list_events(job.id)]
    assert events == ["Job created"]
    assert phoenix.deaths == [9]


def test_a_key_whose_request_is_under_way_is_409(
    client: TestClient, embedded: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a short `Retry-After`, so that clients ask again and get the job; another key is not held up."""
    begun, go_on = threading.Event(), threading.Event()
    examine = submission.examine

    def slow(place: Any, wanted: Any, **more: Any) -> Any:
        if wanted.seed == 1:
            begun.set()
            assert go_on.wait(PATIENCE)
        return examine(place, wanted, **more)

    monkeypatch.setattr(submission, "examine", slow)
    file = upload_to(client)(rows())

    def post(seed: int, key: str) -> Any:
        body = {"model": AFFINE, "training_file": file, "seed": seed}
        return client.post("fine_tuning/jobs", json=body, headers={"idempotency-key": key})

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(post(1, "k")))
    thread.start()
    assert begun.wait(PATIENCE)
    busy = post(1, "k")
    other = post(2, "another")
    go_on.set()
    thread.join(PATIENCE)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "idempotency_key_in_flight")
    assert (busy.headers["retry-after"], "x-should-retry" in busy.headers) == ("1", False)
    assert other.status_code == 200
    again = post(1, "k")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json()["id"] == found[0].json()["id"]


def test_a_refused_request_does_not_use_its_key_up(client: TestClient) -> None:
    """Mend the request and send it again under the same key."""
    headers = {"idempotency-key": "k"}
    body = {"model": AFFINE, "training_file": "file-none"}
    assert client.post("fine_tuning/jobs", json=body, headers=headers).status_code == 404
    body["training_file"] = upload_to(client)(rows())
    made = client.post("fine_tuning/jobs", json=body, headers=headers)
    assert made.status_code == 200
    assert "idempotent-replayed" not in made.headers


def test_a_replay_needs_nothing_that_has_gone_since(client: TestClient) -> None:
    """The answer is the job, though its file could not be used for a new one any more."""
    file = upload_to(client)(rows())
    body, headers = {"model": AFFINE, "training_file": file}, {"idempotency-key": "k"}
    job = client.post("fine_tuning/jobs", json=body, headers=headers).json()["id"]
    client.post(f"fine_tuning/jobs/{job}/cancel")
    assert client.delete(f"files/{file}").status_code == 200
    again = client.post("fine_tuning/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, job)


def test_a_key_makes_one_job(api: TestClient, create: Create) -> None:
    """The same key and body: the job of the first request, marked as replayed."""
    first = create(headers={"idempotency-key": "k1"}, seed=1)
    again = create(headers={"idempotency-key": "k1"}, seed=1)
    assert again["id"] == first["id"]
    assert again["headers"]["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first["headers"]
    assert create(headers={"idempotency-key": "k2"}, seed=1)["id"] != first["id"]


def test_an_empty_key_is_refused(api: TestClient, create: Create) -> None:
    """Two clients whose variable was not set would share it."""
    body = {"model": AFFINE, "training_file": create()["training_file"]}
    answer = api.post("fine_tuning/jobs", json=body, headers={"idempotency-key": ""})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")


def test_a_key_with_another_body_is_422(api: TestClient, create: Create) -> None:
    """A key stands for one request."""
    job = create(headers={"idempotency-key": "k1"}, seed=1)
    body = {"model": AFFINE, "training_file": job["training_file"], "seed": 2}
    answer = api.post("fine_tuning/jobs", json=body, headers={"idempotency-key": "k1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_the_sdks_retry_header_makes_one_job(create: Create) -> None:
    """The SDK repeats a POST without a key; equal content of the last minutes is the same request."""
    first = create(seed=1)
    assert create(seed=1, headers={"x-stainless-retry-count": "1"})["id"] == first["id"]
    assert create(seed=1)["id"] != first["id"]


def test_one_key_sent_by_many_at_once_makes_one_job(api: TestClient, create: Create) -> None:
    """Eight threads, one key: one row. Who comes while another is at it is told to ask again, as the SDK does."""
    body = {"model": AFFINE, "training_file": create()["training_file"], "seed": 3}
    found: list[str] = []

    def post() -> None:
        while (answer := api.post("fine_tuning/jobs", json=body, headers={"idempotency-key": "same"})).is_error:
            assert answer.json()["error"]["code"] == "idempotency_key_in_flight"
        found.append(answer.json()["id"])

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_one_key_is_one_job(db):
    """The same Idempotency-Key and body give the same job; another body is refused; another project is apart."""
    first, replayed = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="a"))
    assert not replayed
    again, replayed = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="a"))
    assert (again.id, replayed) == (first.id, True)
    with pytest.raises(KeyReused):
        lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="b"))
    other, replayed = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="b", project="another"))
    assert other.id != first.id and not replayed


def test_one_key_at_the_same_moment(db):
    """Requests with one key that arrive together make one job, and all get it."""
    answers: list[tuple[str, bool]] = []
    start = threading.Barrier(4)

    def submit() -> None:
        start.wait()
        job, replayed = lifecycle.submit(db, new_job(idempotency_key="k", fingerprint="a"))
        answers.append((job.id, replayed))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in answers}) == 1 and len(answers) == 4
    assert sorted(replayed for _, replayed in answers) == [False, True, True, True]


def test_a_retry_without_a_key_is_the_same_job(db):
    """The SDK's retry of an equal body gives the job it made; a first request with an equal body makes its own."""
    first, _ = lifecycle.submit(db, new_job(fingerprint="a"))
    assert lifecycle.submit(db, new_job(fingerprint="a"), retried=True)[0].id == first.id
    assert lifecycle.submit(db, new_job(fingerprint="a"))[0].id != first.id
    assert lifecycle.submit(db, new_job(fingerprint="z"), retried=True)[1] is False
