"""`dry_run: true`: everything is checked and told, nothing is made."""

import json
from pathlib import Path

import pytest
from openai import OpenAI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue.tables import Job
from app.jobs.requests import dry_run, submission
from app.settings import Settings
from app.webhooks.tables import Delivery
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.requests.bad_jobs import BAD_JOBS, JSON
from tests.app.jobs.requests.dry_runs import TEXTS, look


def test_nothing_is_made(client: TestClient, upload: Upload, db: Database) -> None:
    """No job, no event, no message to a worker, no place under the key: the same key then makes a job."""
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    found = client.post("fine_tuning/jobs", json={**body, "dry_run": True}, headers={"idempotency-key": "k"}).json()
    assert "id" not in found
    assert client.get("fine_tuning/jobs").json()["data"] == []
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    made = client.post("fine_tuning/jobs", json=body, headers={"idempotency-key": "k"})
    assert made.status_code == 200
    assert "idempotent-replayed" not in made.headers
    again = client.post("fine_tuning/jobs", json={**body, "dry_run": False}, headers={"idempotency-key": "k"})
    assert again.json()["id"] == made.json()["id"]


def test_what_the_job_would_be(client: TestClient, upload: Upload) -> None:
    """Task, format, policy and plan as the job would have them; steps by the trainer's rules; the rules are told."""
    found = look(client, model=AFFINE, training_file=upload(rows(50)), freeze_policy={"freeze": ["weight"]})
    assert (found["task"], found["data"]["format"]) == ("tabular-regression", "jsonl")
    assert found["freeze_plan"]["frozen"] == {"tensors": 1, "elements": 2, "bytes": 8}
    assert found["estimate"]["length"] == {
        "examples": 50,
        "n_epochs": 3,
        "batch_size": 16,
        "steps": 12,
        "tokens_per_example": None,
    }
    assert (found["estimate"]["basis"], found["estimate"]["seconds"]) == ("computed", 3.0)
    memory = found["estimate"]["memory_bytes"]
    parts = {"weights": 12, "gradients": 4, "optimizer": 8, "master_weights": 0, "activations": None}
    assert memory == {**parts, "total": 24}
    assert set(found["estimate"]["rules"]) == {"steps", "tokens", "seconds", "memory"}
    assert [each["what"] for each in found["unchecked"]] == ["estimate.memory_bytes.activations"]


@pytest.mark.parametrize("case", BAD_JOBS)
def test_what_a_job_is_refused_for_is_refused_here(client: TestClient, upload: Upload, case: str) -> None:
    """The same status, field and code: a dry run that is accepted means something."""
    change, param, code = BAD_JOBS[case]
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}, **change}
    answer, posted = (
        client.post("fine_tuning/jobs", content=json.dumps({**body, **more}), headers=JSON)
        for more in ({"dry_run": True}, {})
    )
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert answer.status_code == posted.status_code


def test_large_files_are_read_to_their_ends(
    client: TestClient, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that a submission leaves to a worker is found; beyond the bound of dry runs it is told what was not."""
    monkeypatch.setattr("app.jobs.requests.submission.INLINE_BYTES", 10)
    defaults = {**(submission.examine.__kwdefaults__ or {}), "read_bytes": 10}
    monkeypatch.setattr("app.jobs.requests.submission.examine.__kwdefaults__", defaults)
    bad = upload(b'{"x":[1,2],"y":1}\n{"x":[1,2],"y":"one"}\n')
    assert client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": bad}).status_code == 200
    refused = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": bad, "dry_run": True})
    assert [each["line"] for each in refused.json()["error"]["errors"]] == [2]
    monkeypatch.setattr(dry_run, "READ_BYTES", 10)
    found = look(client, model=AFFINE, training_file=bad)
    assert [each["what"] for each in found["unchecked"]][:1] == ["training_file"]
    assert (found["estimate"]["length"], found["estimate"]["seconds"]) == (None, None)


def test_a_model_that_nobody_knows_yet(client: TestClient, upload: Upload, folder: Path) -> None:
    """The rest is checked; the policy is not, and the answer says why and when it will be."""
    body = {"model": {"type": "transformers", "path": "small"}, "training_file": upload(TEXTS)}
    found = look(client, **body, freeze_policy={"freeze": ["bert.**"]})
    assert (found["task"], found["freeze_plan"]) == ("text-classification", None)
    (policy, *_) = [each for each in found["unchecked"] if each["what"] == "freeze_policy"]
    assert "POST /v1/models" in policy["why"]
    assert found["estimate"]["memory_bytes"]["total"] is None
    assert found["estimate"]["length"]["tokens_per_example"] > 5
    assert "estimate.seconds" in [each["what"] for each in found["unchecked"]]


def test_a_spent_quota_is_told(client: TestClient, upload: Upload) -> None:
    """As a submission would be told."""
    settings: Settings = client.app.state.backends.settings  # type: ignore[attr-defined]
    settings.max_active_jobs = 1
    body = {"model": AFFINE, "training_file": upload(rows())}
    assert client.post("fine_tuning/jobs", json=body).status_code == 200
    answer = client.post("fine_tuning/jobs", json={**body, "dry_run": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


def test_the_sdk_gets_it(openai: OpenAI) -> None:
    """The default client keeps every field; a strict one reads the raw answer, since it is no job."""
    file = openai.files.create(file=("a.jsonl", "\n".join(map(json.dumps, rows())).encode()), purpose="fine-tune").id
    extra = {"model": AFFINE, "dry_run": True}
    raw = openai.fine_tuning.jobs.with_raw_response.create(model="-", training_file=file, extra_body=extra)
    assert json.loads(raw.text)["object"] == "fine_tuning.job.dry_run"
    lenient = openai.with_options()
    lenient._strict_response_validation = False
    found = lenient.fine_tuning.jobs.create(model="-", training_file=file, extra_body=extra)
    assert found.model_extra["dry_run"] is True
    assert found.id is None
    assert list(openai.fine_tuning.jobs.list()) == []
