"""What a dry run leaves to a worker, with the reason that is true of the request."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import Database
from app.models.tables import Model
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.requests.dry_runs import TEXTS, look, register

SMALL: dict[str, Any] = {"type": "transformers", "path": "small", "task": "text-classification"}
CHAT = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}] * 4


def reasons(client: TestClient, **body: Any) -> dict[str, str]:
    return {part["what"]: part["why"] for part in look(client, **body)["unchecked"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter": {"type": "lora"}}, "the adapter adds tensors to those of 'small'"),
        ({"new_tokens": ["<q>"]}, "new_tokens resize the embeddings of 'small'"),
        ({"path": "acme/tiny"}, "once a worker has downloaded it"),
        ({"task": "token-classification"}, "not known for the task token-classification"),
    ],
)
def test_the_reason_why_a_policy_is_unchecked(
    client: TestClient, upload: Upload, folder: Path, db: Database, change: dict[str, Any], words: str
) -> None:
    """Registering the model would not help here, and nothing says that it would."""
    register(db)
    tagged = [{"tokens": ["a", "b"], "labels": ["x", "y"]}] * 4
    file = upload(tagged if change.get("task") else TEXTS)
    found = reasons(client, model=SMALL | change, training_file=file)
    assert words in found["freeze_policy"]
    assert "POST /v1/models" not in found["freeze_policy"]
    assert ("model.adapter" in found) == ("adapter" in change)


def test_an_architecture_that_only_a_worker_builds(client: TestClient, upload: Upload) -> None:
    """Whether it takes the data is as open as what the policy freezes."""
    mlp = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 2, "out_features": 1}}
    found = reasons(client, model=mlp, training_file=upload(rows()))
    assert {"model.kwargs", "freeze_policy"} <= set(found)


@pytest.mark.parametrize(
    "option", [{"compile": True}, {"gradient_checkpointing": True}, {"optimizer": {"name": "muon"}}]
)
def test_options_that_only_the_built_model_decides(
    client: TestClient, upload: Upload, folder: Path, db: Database, option: dict[str, Any]
) -> None:
    """Each by its own name; without them nothing is open."""
    register(db)
    file = upload(TEXTS)
    assert reasons(client, model=SMALL, training_file=file) == {}
    (what,) = reasons(client, model=SMALL, training_file=file, hyperparameters=option)
    assert what.startswith(f"hyperparameters.{next(iter(option))}")


def test_texts_that_only_a_tokenizer_measures(client: TestClient, upload: Upload, folder: Path) -> None:
    """max_length may leave nothing to learn of an example."""
    found = reasons(client, model={**SMALL, "task": "causal-lm"}, training_file=upload(CHAT))
    assert "max_length" in found["training_file"]


def test_labels_that_the_base_may_know(client: TestClient, upload: Upload, folder: Path, db: Database) -> None:
    """Its config.json cannot be read here: whether the head has a class for them is left to the worker."""
    register(db)  # names a blob that is not there
    held_out = upload([{"text": "one", "label": "z"}], name="held.jsonl")
    found = reasons(client, model=SMALL, training_file=upload(TEXTS), validation_file=held_out)
    assert "label map" in found["validation_file"]


def test_a_schedule_over_an_unknown_number_of_steps(
    client: TestClient, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was not read to its end does not say how many steps the run has."""
    monkeypatch.setattr("app.jobs.requests.dry_run.READ_BYTES", 10)
    when = [{"from_step": 5, "to_step": None}]
    policy = {"rules": [{"action": "freeze", "select": {"name": "weight"}, "when": when}]}
    found = reasons(client, model=AFFINE, training_file=upload(rows()), freeze_policy=policy)
    assert "number of steps" in found["freeze_policy"]


def test_several_devices(client: TestClient, upload: Upload) -> None:
    """Modules that would differ between devices are found on the loaded model."""
    found = reasons(client, model=AFFINE, training_file=upload(rows()), resources={"devices": 2})
    assert "resources.devices" in found


def test_a_known_model_without_labels_of_its_own(
    client: TestClient, upload: Upload, folder: Path, db: Database
) -> None:
    """Its config.json was read: nothing is open."""
    register(db)
    with db.write() as session:
        session.execute(update(Model).values(files=[]))
    body = {"training_file": upload(TEXTS), "validation_file": upload(TEXTS[:4], name="held.jsonl")}
    assert reasons(client, model=SMALL, **body) == {}
