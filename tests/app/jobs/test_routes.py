"""Jobs over HTTP beyond what the SDK asks for: retries, polling, filters, curves, evidence."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from starlette.testclient import TestClient

from app.db import Database
from app.evidence.tables import Evidence, Parameter
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Lease, Outcome
from app.jobs.queue.event_log import NewEvent
from app.models.tables import Model
from tests.app.conftest import AFFINE, rows, upload_to

Create = Callable[..., dict[str, Any]]


@pytest.fixture
def db(application: FastAPI) -> Database:
    made: Database = application.state.backends.database
    return made


@pytest.fixture
def create(api: TestClient) -> Create:
    """Posts a job on a small file and returns it."""
    file = upload_to(api)(rows())

    def post(**more: Any) -> dict[str, Any]:
        headers = more.pop("headers", {})
        answer = api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file, **more}, headers=headers)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "headers": answer.headers}

    return post


def claim(db: Database) -> Lease:
    lease = lifecycle.claim(db, worker="test", seconds=60)
    assert lease is not None
    return lease


# ---- retries


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


# ---- polling


def test_an_unchanged_job_is_304(api: TestClient, create: Create, db: Database) -> None:
    """The ETag moves with the row, and with the place in the queue."""
    job = create()
    path = f"fine_tuning/jobs/{job['id']}"
    tag = api.get(path).headers["etag"]
    assert api.get(path, headers={"if-none-match": tag}).status_code == 304
    lifecycle.beat(
        db,
        claim(db),
        AttemptUpdates(
            progress={"step": 1, "total_steps": 2, "eta_seconds": 1000, "estimated_finish": int(time.time()) + 1000}
        ),
    )
    answer = api.get(path, headers={"if-none-match": tag})
    assert (answer.status_code, answer.json()["progress"]["step"]) == (200, 1)
    assert answer.json()["estimated_finish"] > time.time() + 900
    assert answer.headers["retry-after"] == "1"


def test_a_waiting_poll_answers_when_the_job_changes(api: TestClient, create: Create, db: Database) -> None:
    """`Prefer: wait` holds the request; the move of the job ends it long before the time is up."""
    job = create()
    tag = api.get(f"fine_tuning/jobs/{job['id']}").headers["etag"]
    threading.Timer(0.3, lifecycle.cancel, [db, "default", job["id"]]).start()
    started = time.monotonic()
    headers = {"prefer": "respond-async, wait=50", "if-none-match": tag}
    answer = api.get(f"fine_tuning/jobs/{job['id']}", headers=headers)
    assert answer.json()["status"] == "cancelled"
    assert answer.headers["preference-applied"] == "wait=50"
    assert time.monotonic() - started < 40


def test_a_waiting_poll_never_outlasts_its_client(api: TestClient, create: Create) -> None:
    """The SDK tells its timeout; the answer comes five seconds before it at the latest."""
    job = create()
    headers = {"prefer": "wait=50", "x-stainless-read-timeout": "6"}
    answer = api.get(f"fine_tuning/jobs/{job['id']}", headers=headers)
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.json()["status"] == "queued"


def test_the_queue_is_told_by_priority_and_age(api: TestClient, create: Create, db: Database) -> None:
    """Higher priority first, then older; a running job has no place."""
    older, newer, first = create(), create(), create(priority=5)

    def places() -> list[int | None]:
        return [api.get(f"fine_tuning/jobs/{job['id']}").json()["queue_position"] for job in (older, newer, first)]

    assert places() == [2, 3, 1]
    claim(db)
    assert places() == [1, 2, None]


# ---- lists


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


# ---- what a run leaves behind


def test_a_long_curve_is_thinned_out(api: TestClient, create: Create, db: Database) -> None:
    """Both ends stay; a range narrows; a short curve comes whole."""
    job = create()
    curve = [(step, "train", {"loss": 1.0 / step}) for step in range(1, 101)]
    lifecycle.beat(db, claim(db), AttemptUpdates(metrics=[*curve, (100, "valid", {"loss": 0.5})]))
    path = f"fine_tuning/jobs/{job['id']}/metrics"
    whole = api.get(path).json()
    assert (len(whole["data"]), whole["sampled"]) == (101, False)
    few = api.get(path, params={"limit": 10, "split": "train"}).json()
    steps = [point["step"] for point in few["data"]]
    assert (len(steps), steps[0], steps[-1], few["sampled"]) == (10, 1, 100, True)
    assert steps == sorted(set(steps))
    some = api.get(path, params={"from_step": 10, "to_step": 12}).json()["data"]
    assert [point["values"]["loss"] for point in some] == [1 / 10, 1 / 11, 1 / 12]


def finish(db: Database, lease: Lease, *, verdict: str = "verified", model: Model | None = None) -> None:
    evidence = Evidence(job_id=lease.job_id, attempt=1, verdict=verdict, frozen_tensors=2, frozen_bytes=16)
    evidence.base_root, evidence.frozen_root, evidence.checks = "ab" * 32, "cd" * 32, {"count": 3}
    evidence.violations = [] if verdict == "verified" else [{"name": "weight", "first_bad_step": 1}]
    evidence.envelope, evidence.keyid = b'{"payload":"e30="}', "k"
    parameters = [
        parameter(lease.job_id, 0, "bias", "trainable", True),
        parameter(lease.job_id, 1, "weight", "frozen", False),
    ]
    outcome = Outcome("succeeded", evidence=evidence, parameters=parameters, events=[NewEvent("done")], model=model)
    lifecycle.finish(db, lease, outcome)


def result(job_id: str) -> Model:
    """What such a job leaves: one small file, stored as a whole."""
    model = Model(id=f"ft:affine:default::{job_id}", project="default", owned_by="default", kind="fine_tuned")
    model.status, model.spec, model.job_id = "ready", AFFINE, job_id
    model.files = [{"name": "model.safetensors", "size": 16, "sha256": "ab" * 32, "blob": "ab" * 32}]
    return model


def parameter(job_id: str, position: int, name: str, role: str, changed: bool) -> Parameter:
    row = Parameter(job_id=job_id, position=position, name=name, kind="parameter", role=role, changed=changed)
    row.dtype, row.shape, row.elements, row.nbytes = "F32", [2], 2, 8
    row.stats = {"changed_elements": 2} if changed else None
    return row


def test_a_job_that_has_ended_has_nothing_left_to_do(api: TestClient, create: Create, db: Database) -> None:
    """Stopped early by its bound on time, with steps left: 100 percent and no seconds. A paused one does not know."""
    told = AttemptUpdates(progress={"step": 10, "total_steps": 1000, "percent": 1.0, "eta_seconds": 990.0})
    seen = []
    for end in ("succeeded", "paused"):
        path = f"fine_tuning/jobs/{create()['id']}"
        lease = claim(db)
        lifecycle.beat(db, lease, told)
        assert api.get(path).json()["progress"]["eta_seconds"] == 990.0
        if end == "succeeded":
            finish(db, lease)
        else:
            api.post(f"{path}/pause")
            lifecycle.release(db, lease)
        job = api.get(path).json()
        seen.append((job["status"], *(job["progress"][name] for name in ("step", "percent", "eta_seconds"))))
    assert seen == [("succeeded", 10, 100.0, 0.0), ("paused", 10, 1.0, None)]


def test_evidence_is_pending_then_there(api: TestClient, create: Create, db: Database) -> None:
    """Verdict in the job and by itself; the attestation is byte for byte what was signed."""
    job = create()
    path = f"fine_tuning/jobs/{job['id']}"
    assert api.get(f"{path}/evidence").json()["verdict"] == "pending"
    missing = api.get(f"{path}/attestation")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_attestation")
    finish(db, claim(db), verdict="violated")
    summary = api.get(path).json()["evidence"]
    assert (summary["verdict"], summary["frozen_tensors"]) == ("violated", 2)
    unknown = {"last_good_step": None, "operation": None, "explanation": None, "reason": None}
    assert summary["violations"] == [{"name": "weight", "first_bad_step": 1} | unknown]
    assert api.get(f"{path}/evidence").json()["checks"] == {"count": 3}
    attestation = api.get(f"{path}/attestation")
    assert attestation.content == b'{"payload":"e30="}'
    assert attestation.headers["content-type"] == "application/vnd.dsse.envelope.v1+json"


def test_a_job_without_a_result_stays_incomplete(api: TestClient, create: Create) -> None:
    """Cancelled before anything could be proved."""
    job = create()
    api.post(f"fine_tuning/jobs/{job['id']}/cancel")
    evidence = api.get(f"fine_tuning/jobs/{job['id']}/evidence").json()
    assert evidence["verdict"] == "incomplete"
    assert "cancelled" in evidence["reason"]


def test_parameters_are_filtered_and_paged(api: TestClient, create: Create, db: Database) -> None:
    """By role, by change, and one at a time."""
    job = create()
    finish(db, claim(db))
    path = f"fine_tuning/jobs/{job['id']}/parameters"

    def names(**query: Any) -> list[str]:
        return [row["name"] for row in api.get(path, params=query).json()["data"]]

    assert names() == ["bias", "weight"]
    assert names(role="frozen") == names(changed=False) == ["weight"]
    assert names(changed=True) == ["bias"]
    page = api.get(path, params={"limit": 1}).json()
    assert page["has_more"] is True
    assert names(after=page["last_id"]) == ["weight"]
    assert api.get(path, params={"after": "weight"}).json()["error"]["param"] == "after"


# ---- live


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


def test_many_watchers_cost_the_database_what_one_does(socket_url: str, embedded: FastAPI) -> None:
    """Queries during one second of 1 watcher and of 60 watchers of the same job differ by little."""
    db: Database = embedded.state.backends.database
    with httpx2.Client(base_url=f"{socket_url}/v1/", limits=httpx2.Limits(max_connections=100)) as client:
        file = upload_to(client)(rows())
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]
        queries = 0

        def count(*_: object) -> None:
            nonlocal queries
            queries += 1

        for engine in db._engines:
            event.listen(engine, "before_cursor_execute", count)

        def during_a_second(watchers: int) -> int:
            paths = [f"fine_tuning/jobs/{job}/{what}?stream=true" for what in ("events", "metrics", "logs")]
            streams = [client.stream("GET", paths[number % 3]) for number in range(watchers)]
            blocks = [stream.__enter__().iter_bytes() for stream in streams]
            for each in blocks:
                next(each)
            before = queries
            time.sleep(1)
            after = queries
            for stream in streams:
                stream.__exit__(None, None, None)
            return after - before

        one = during_a_second(1)
        assert one > 0
        assert during_a_second(60) <= 2 * one + 4
