"""Requests whose parts do not fit together: refused by a dry run and by a submission, as the trainer would."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import Database
from app.models.tables import Model
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.requests.dry_runs import TEXTS, look, register

CLASSIFIER = {**AFFINE, "task": "classification", "kwargs": {"in_features": 2, "out_features": 3}}
CLASSES = [{"x": [float(n), 1.0], "y": "abc"[n % 3]} for n in range(12)]
SMALL = {"type": "transformers", "path": "small", "task": "text-classification"}
THREE = [{"text": f"words {n}", "label": "abc"[n % 3]} for n in range(12)]
NUMBERS = [{"text": f"words {n}", "label": n / 2} for n in range(8)]


def scheduled(start: int, end: int | None = None) -> dict[str, Any]:
    when = [{"from_step": start, "to_step": end}]
    return {"rules": [{"id": "late", "action": "freeze", "select": {"name": "weight"}, "when": when}]}


def sgd(**options: Any) -> dict[str, Any]:
    return {"hyperparameters": {"optimizer": {"name": "sgd", **options}}}


#: Model, training rows, validation rows, the rest of the request; then param and code of the refusal. Each of these
#: was valid by a dry run, with nothing unchecked, and failed in the trainer.
MISFITS: dict[str, tuple[Any, Any, Any, dict[str, Any], str, str]] = {
    "fewer classes than labels": (
        {**SMALL, "num_labels": 2}, THREE, None, {}, "model.num_labels", "invalid_request",
    ),
    "regression with classes": (
        {**SMALL, "task": "text-regression", "num_labels": 3}, NUMBERS, None, {}, "model.num_labels", "invalid_request",
    ),
    "fewer outputs than labels": (
        {**CLASSIFIER, "kwargs": {"in_features": 2, "out_features": 2}}, CLASSES, None, {},
        "training_file", "data_does_not_fit_model",
    ),
    "other features": (
        {**AFFINE, "kwargs": {"in_features": 3, "out_features": 1}}, rows(), None, {},
        "training_file", "data_does_not_fit_model",
    ),
    "other targets": (
        {**AFFINE, "kwargs": {"in_features": 2, "out_features": 2}}, rows(), None, {},
        "training_file", "data_does_not_fit_model",
    ),
    "a validation file of another width": (
        AFFINE, rows(), [{"x": [1.0, 2.0, 3.0], "y": 1.0}] * 2, {}, "validation_file", "invalid_training_data",
    ),
    "a label of the validation file alone": (
        CLASSIFIER, CLASSES, [{"x": [1.0, 2.0], "y": "z"}], {}, "validation_file", "invalid_training_data",
    ),
    "a text label of the validation file alone": (
        SMALL, THREE, [{"text": "one", "label": "z"}], {}, "validation_file", "invalid_training_data",
    ),
    "a schedule behind the last step": (
        AFFINE, rows(16), None, {"hyperparameters": {"n_epochs": 2, "batch_size": 4}, "freeze_policy": scheduled(8)},
        "freeze_policy", "invalid_freeze_policy",
    ),
    "a schedule behind max_steps": (
        AFFINE, rows(16), None, {"hyperparameters": {"max_steps": 3}, "freeze_policy": scheduled(3)},
        "freeze_policy", "invalid_freeze_policy",
    ),
    "a schedule and early stopping": (
        AFFINE, rows(16), rows(4),
        {"hyperparameters": {"early_stopping_patience": 1}, "freeze_policy": scheduled(0, 1)},
        "hyperparameters.early_stopping_patience", "invalid_request",
    ),
    "a micro-batch larger than its batch": (
        AFFINE, rows(), None, {"hyperparameters": {"batch_size": 2, "micro_batch_size": 4}},
        "hyperparameters.micro_batch_size", "invalid_request",
    ),
    "a micro-batch larger than the batch that auto is": (
        AFFINE, rows(), None, {"hyperparameters": {"micro_batch_size": 64}},
        "hyperparameters.micro_batch_size", "invalid_request",
    ),
    "activations that cannot be recomputed": (
        AFFINE, rows(), None, {"hyperparameters": {"gradient_checkpointing": True}},
        "hyperparameters.gradient_checkpointing", "invalid_request",
    ),
    "muon without a hidden matrix": (
        AFFINE, rows(), None, {"hyperparameters": {"optimizer": {"name": "muon"}}},
        "hyperparameters.optimizer.name", "invalid_request",
    ),
    "muon for a new head alone": (
        SMALL, TEXTS, None,
        {"hyperparameters": {"optimizer": {"name": "muon"}}, "freeze_policy": {"train": ["classifier.**"]}},
        "hyperparameters.optimizer.name", "invalid_request",
    ),
    "nesterov without momentum": (
        AFFINE, rows(), None, sgd(nesterov=True), "hyperparameters.optimizer.nesterov", "invalid_value",
    ),
    "nesterov with dampening": (
        AFFINE, rows(), None, sgd(nesterov=True, momentum=0.9, dampening=0.1),
        "hyperparameters.optimizer.nesterov", "invalid_value",
    ),
    "nesterov in a group without momentum": (
        AFFINE, rows(), None, sgd(groups=[{"select": {"name": "bias"}, "options": {"nesterov": True}}]),
        "hyperparameters.optimizer.groups[0].options.nesterov", "invalid_value",
    ),
    "pairs on two devices": (
        {**SMALL, "task": "pairs"}, [{"anchor": "a", "positive": "b"}] * 4, None, {"resources": {"devices": 2}},
        "resources.devices", "invalid_request",
    ),
    "a prefix cache on two devices": (
        SMALL, TEXTS, None, {"resources": {"devices": 2}, "hyperparameters": {"prefix_cache": True}},
        "hyperparameters.prefix_cache", "invalid_request",
    ),
    "a compiled model on two devices": (
        AFFINE, rows(), None, {"resources": {"devices": 2}, "hyperparameters": {"compile": True}},
        "hyperparameters.compile", "invalid_request",
    ),
    "devices that machines cannot share": (
        AFFINE, rows(), None, {"resources": {"devices": 3, "machines": 2}}, "resources.devices", "invalid_request",
    ),
    "more machines than devices": (
        AFFINE, rows(), None, {"resources": {"machines": 2}}, "resources.devices", "invalid_request",
    ),
    "adafactor with fsdp": (
        AFFINE, rows(), None,
        {"resources": {"devices": 2, "strategy": "fsdp"}, "hyperparameters": {"optimizer": {"name": "adafactor"}}},
        "hyperparameters.optimizer.name", "invalid_request",
    ),
    "fp16 with fsdp": (
        AFFINE, rows(), None,
        {"resources": {"devices": 2, "strategy": "fsdp"}, "hyperparameters": {"precision": "fp16"}},
        "hyperparameters.precision", "invalid_request",
    ),
}  # fmt: skip


@pytest.fixture
def small(folder: Path, db: Database) -> Path:
    """A registered model whose config.json has no labels of its own."""
    register(db)
    with db.write() as session:
        session.execute(update(Model).values(files=[]))
    return folder


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_before_training(
    client: TestClient, upload: Upload, small: Path, case: str
) -> None:
    """With the same status, param and code by a dry run and by a submission."""
    model, training, validation, more, param, code = MISFITS[case]
    body = {"model": model, "training_file": upload(training), **more}
    if validation is not None:
        body["validation_file"] = upload(validation, name="held.jsonl")
    for dry_run in (True, False):
        answer = client.post("fine_tuning/jobs", json={**body, "dry_run": dry_run})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error


@pytest.mark.parametrize(
    ("model", "training", "validation", "more"),
    [
        ({**SMALL, "num_labels": 3}, THREE, [{"text": "one", "label": "c"}], {}),
        ({**SMALL, "num_labels": 5}, THREE, None, {}),
        (CLASSIFIER, CLASSES, [{"x": [1.0, 2.0], "y": "b"}], {}),
        (AFFINE, rows(16), rows(4), {"hyperparameters": {"max_steps": 4}, "freeze_policy": scheduled(3)}),
        (AFFINE, rows(), None, {"hyperparameters": {"batch_size": 4, "micro_batch_size": 4}}),
        (SMALL, TEXTS, None, {"hyperparameters": {"optimizer": {"name": "muon"}}}),
        (AFFINE, rows(), None, sgd(nesterov=True, momentum=0.9)),
        (AFFINE, rows(), None, {"resources": {"devices": 2, "strategy": "fsdp"}}),
        (AFFINE, rows(), None, {"resources": {"devices": 8, "machines": 2}}),
    ],
)
def test_what_fits_is_accepted(
    client: TestClient, upload: Upload, small: Path, model: Any, training: Any, validation: Any, more: dict[str, Any]
) -> None:
    """So each refusal above is for the part that its name says."""
    body = {"model": model, "training_file": upload(training), **more}
    if validation is not None:
        body["validation_file"] = upload(validation, name="held.jsonl")
    look(client, **body)


def test_labels_of_the_base_are_labels_of_the_head(client: TestClient, upload: Upload, small: Path) -> None:
    """A head that knows every label of the training file keeps its classes, and may be validated on all of them."""
    names = {"id2label": {"0": "a", "1": "b", "2": "c", "3": "z"}}
    (small / "config.json").write_text(json.dumps(json.loads((small / "config.json").read_text()) | names))
    body = {"training_file": upload(THREE), "validation_file": upload([{"text": "one", "label": "z"}], name="v.jsonl")}
    look(client, model=SMALL, **body)
    refused = client.post("fine_tuning/jobs", json={"model": {**SMALL, "num_labels": 3}, **body, "dry_run": True})
    assert refused.json()["error"]["message"] == "the data has 4 labels, and model.num_labels is 3"


@pytest.mark.parametrize(("limit", "devices", "status"), [(2, 3, 400), (2, 2, 200), (0, None, 400)])
def test_more_devices_than_the_project_may_use(
    client: TestClient, upload: Upload, embedded: FastAPI, limit: int, devices: int | None, status: int
) -> None:
    """Such a job would wait for ever; the refusal names the limit, also where no device was requested by number."""
    embedded.state.backends.settings.device_limits = {"*": limit}
    resources = {} if devices is None else {"resources": {"devices": devices}}
    body = {"model": AFFINE, "training_file": upload(rows()), **resources}
    for dry_run in (True, False):
        answer = client.post("fine_tuning/jobs", json={**body, "dry_run": dry_run})
        assert answer.status_code == status, answer.text
        if status == 400:
            error = answer.json()["error"]
            assert error["param"] == "resources.devices"
            assert f"may use {limit} devices at once (PERMAFROST_PROJECT_DEVICES)" in error["message"]
