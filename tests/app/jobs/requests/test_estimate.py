"""Estimates of how long a job takes and how much memory it needs."""

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.settings import Settings
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.requests.dry_runs import HIDDEN, TEXTS, WIDE, look, register


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
