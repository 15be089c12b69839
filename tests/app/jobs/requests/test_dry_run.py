"""`dry_run: true`: everything is checked and told, nothing is made."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openai import OpenAI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.tables import Job
from app.jobs.requests import dry_run
from app.models.tables import Model
from app.settings import Settings
from app.webhooks.tables import Delivery
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.http.test_errors import BAD_JOBS, JSON

TEXTS = [{"text": f"some words number {n}", "label": "ab"[n % 2]} for n in range(40)]
WIDE = [{"x": [float(n), 1.0], "y": [0.0, 2.0 * n]} for n in range(8)]
HIDDEN = 8


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def look(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("fine_tuning/jobs", json={"dry_run": True, **body})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["object"], answer.json()["dry_run"]) == ("fine_tuning.job.dry_run", True)
    return dict(answer.json())


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
    assert (memory["weights"], memory["gradients"], memory["optimizer"], memory["total"]) == (12, 4, 8, 24)
    assert set(found["estimate"]["rules"]) == {"steps", "tokens", "seconds", "memory"}
    assert [each["what"] for each in found["unchecked"]] == ["estimate.memory_bytes.activations"]


def test_the_length_follows_the_request(client: TestClient, upload: Upload) -> None:
    """Epochs, batch, a bound on steps, examples held out, and a limit of time."""
    file = upload(rows(100))

    def length(**hyperparameters: Any) -> tuple[int, int]:
        found = look(client, model=AFFINE, training_file=file, hyperparameters=hyperparameters)["estimate"]["length"]
        return found["examples"], found["steps"]

    assert length(n_epochs=2, batch_size=30) == (100, 8)
    assert length(n_epochs=1, batch_size=10, validation_fraction=0.2) == (80, 8)
    assert length(n_epochs=50, batch_size=10, max_steps=7) == (100, 7)
    slow = look(client, model=AFFINE, training_file=file, hyperparameters={"n_epochs": 90_000}, max_run_seconds=60)
    assert slow["estimate"]["seconds"] == 63.0


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
    monkeypatch.setattr("app.jobs.requests.submission.examine.__kwdefaults__", {"read_bytes": 10})
    bad = upload(b'{"x":[1,2],"y":1}\n{"x":[1,2],"y":"one"}\n')
    assert client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": bad}).status_code == 200
    refused = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": bad, "dry_run": True})
    assert [each["line"] for each in refused.json()["error"]["errors"]] == [2]
    monkeypatch.setattr(dry_run, "READ_BYTES", 10)
    found = look(client, model=AFFINE, training_file=bad)
    assert [each["what"] for each in found["unchecked"]][:1] == ["training_file"]
    assert (found["estimate"]["length"], found["estimate"]["seconds"]) == (None, None)


@pytest.fixture
def folder(embedded: FastAPI) -> Path:
    """A model in the layout of transformers, which no worker has looked at yet."""
    settings: Settings = embedded.state.backends.settings
    place = settings.models / "small"
    place.mkdir(parents=True)
    config = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    (place / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **config}))
    return place


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


def test_a_model_that_is_known(client: TestClient, upload: Upload, folder: Path, db: Database) -> None:
    """The file tells how many classes the new head has; embeddings are no work; the head alone trains, so nothing
    goes backward through the encoder."""
    register(db)
    spec = {"type": "transformers", "path": "small", "task": "text-classification"}
    file = upload(TEXTS)
    frozen = look(client, model=spec, training_file=file, freeze_policy={"freeze": ["bert.**"]})
    assert frozen["freeze_plan"]["trainable"] == {"tensors": 1, "elements": 2 * HIDDEN, "bytes": 8 * HIDDEN}
    assert any("initialised at random" in each for each in frozen["warnings"])
    assert frozen["unchecked"] == []
    assert frozen["estimate"]["memory_bytes"]["activations"] > 0
    slow: Settings = client.app.state.backends.settings  # type: ignore[attr-defined]
    slow.device_flops = 1e4
    frozen = look(client, model=spec, training_file=file, freeze_policy={"freeze": ["bert.**"]})["estimate"]
    whole = look(client, model=spec, training_file=file)["estimate"]
    tokens, seen = frozen["length"]["tokens_per_example"], 40 * frozen["length"]["n_epochs"]
    head, encoder = 2 * HIDDEN, HIDDEN * HIDDEN
    assert frozen["seconds"] == round(seen * tokens * (2 * (head + encoder) + 2 * head) / 1e4 + 3, 1)
    assert whole["seconds"] == round(seen * tokens * 6 * (head + encoder) / 1e4 + 3, 1)


def register(db: Database) -> None:
    def row(name: str, shape: list[int], module: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "shape": shape, "dtype": "F32", "module_types": ["Bert", module], **more}

    manifest = [
        row("bert.embeddings.weight", [1_000, HIDDEN], "Embedding"),
        row("bert.layer.weight", [HIDDEN, HIDDEN], "Linear"),
        row("classifier.weight", [3, HIDDEN], "Linear", initialised=True, labels=True),
    ]
    with db.write() as session:
        model = Model(id="small", created_at=now(session), owned_by="permafrost", kind="base", status="ready")
        model.spec = {"type": "transformers", "path": "small"}
        model.files, model.tensors = [{"name": "config.json", "size": 2, "sha256": "0", "blob": "x"}], []
        model.manifest = {"text-classification": manifest}
        session.add(model)


def test_earlier_jobs_tell_how_long_it_takes(client: TestClient, upload: Upload, db: Database) -> None:
    """The median speed of what has run here on this model, and what it took beside training."""
    file = upload(rows(100))
    body = {"model": AFFINE, "training_file": file, "hyperparameters": {"n_epochs": 10, "batch_size": 10}}
    for speed in (5.0, 10.0, 20.0):
        job = client.post("fine_tuning/jobs", json=body).json()["id"]
        lease = lifecycle.claim(db, worker="w", seconds=60)
        assert lease is not None
        progress = {"step": 100, "total_steps": 100, "examples_per_second": speed}
        lifecycle.beat(db, lease, AttemptUpdates(progress=progress, hyperparameters={"n_epochs": 10, "batch_size": 10}))
        lifecycle.finish(db, lease, Outcome("succeeded"))
        assert client.get(f"fine_tuning/jobs/{job}").json()["status"] == "succeeded"
    found = look(client, **body)["estimate"]
    assert (found["basis"], found["seconds"]) == ("measured", 100.0)
    wider = {"model": {**AFFINE, "kwargs": {"in_features": 2, "out_features": 2}}, "training_file": upload(WIDE)}
    assert look(client, **wider)["estimate"]["basis"] == "computed"


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
