"""A healthy service has nothing for `permafrost doctor` to find, whatever its jobs stored and dropped."""

import json
from typing import Any

import pytest

from app.ops.doctor.command import examine
from tests.end_to_end.conftest import Service
from tests.worker.supervisor.jobs import eventually

pytestmark = pytest.mark.slow

REVIEWS = [
    {"text": f"{'very ' * (index % 3)}{word} day", "label": word} for index in range(16) for word in ("good", "bad")
]
ROWS = {"action": "train", "select": {"name": "**.q_proj.weight", "rows": [[0, 3]]}}
TEXTS = [{"text": "the cat sat on the mat"}, {"text": "a dog ran under the tree"}] * 8
MLP = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 4, "out_features": 1, "hidden": [8]}}
STEPS = {"max_steps": 6, "batch_size": 8, "learning_rate": 0.01, "checkpoint_steps": 2, "keep_checkpoints": 1}


@pytest.fixture(scope="module")
def models(service: Service) -> dict[str, Any]:
    """A tiny BERT without a head and a tiny Llama, where the service looks for base models."""
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tests.worker.trainer import tiny

    encoder, decoder = service.settings.models / "doctor-bert", service.settings.models / "doctor-llama"
    tiny.bert(encoder)
    tiny.llama(decoder)
    return {
        "encoder": {"type": "transformers", "path": encoder.name, "task": "text-classification"},
        "decoder": {"type": "transformers", "path": decoder.name, "task": "causal-lm"},
    }


@pytest.fixture(scope="module")
def jobs(service: Service, table: str, models: dict[str, Any]) -> dict[str, Any]:
    """Jobs of every kind, ended: what they ask for, and how they must end."""
    reviews = _upload(service, REVIEWS, "reviews.jsonl")
    texts = _upload(service, TEXTS, "texts.jsonl")
    bad = _upload(service, [{"text": "good"}], "bad.jsonl")
    decoder = models["decoder"]
    requests = {
        "new head, checkpoints": ("succeeded", models["encoder"], reviews, {"freeze": ["bert.**"]}, STEPS),
        "frozen new head": ("succeeded", models["encoder"], reviews, {"freeze": ["classifier.**"]}, STEPS),
        "own architecture": ("succeeded", MLP, table, {"freeze": ["0.**"]}, STEPS),
        "no enforcement": ("succeeded", MLP, table, {"rules": [], "default": "freeze", "enforce": False}, STEPS),
        "part of a tensor": (
            "succeeded",
            decoder,
            texts,
            {
                "rules": [{"action": "train", "select": {"name": "**.q_proj.weight", "rows": [[0, 3]]}}],
                "default": "freeze",
            },
            STEPS | {"batch_size": 4},
        ),
        "adapter": ("succeeded", decoder | {"adapter": {"type": "lora", "r": 2}}, texts, {}, STEPS | {"batch_size": 4}),
        "merged adapter": (
            "succeeded",
            decoder | {"adapter": {"type": "lora", "r": 2, "merge": True}},
            texts,
            {},
            STEPS | {"batch_size": 4},
        ),
        "bad data": ("failed", decoder, bad, {}, STEPS),
    }
    ended = {}
    for kind, (status, model, file, policy, hyperparameters) in requests.items():
        body = {"model": model, "training_file": file, "seed": 5, "freeze_policy": policy}
        answer = service.client.post("fine_tuning/jobs", json=body | {"hyperparameters": hyperparameters})
        if answer.status_code != 200:
            assert status == "failed", (kind, answer.text)
            continue
        ended[kind] = service.ended(answer.json()["id"])
        assert ended[kind]["status"] == status, (kind, ended[kind]["error"])
    # A worker removes a job's folder once the job has ended, which is a moment later.
    eventually(lambda: not any(service.settings.work.glob("ftjob-*")), says=service.log)
    return ended


def _upload(service: Service, rows: list[dict[str, Any]], name: str) -> str:
    return service.upload("\n".join(json.dumps(row) for row in rows).encode(), name)


def test_the_doctor_finds_nothing_after_jobs_of_every_kind(service: Service, jobs: dict[str, Any]) -> None:
    """No orphan, no loss, no damage: exit code 0 of `permafrost doctor`, also when it looks at every byte."""
    findings = examine(service.settings, deep=True, older_than=0)
    assert [(finding.kind, finding.object, finding.message) for finding in findings if finding.open] == []


def test_the_doctor_finds_nothing_after_models_are_deleted(service: Service, jobs: dict[str, Any]) -> None:
    """Results and checkpoints take their blobs along, and leave those of others."""
    for model in service.get("models")["data"]:
        if model["kind"] in ("fine_tuned", "checkpoint"):
            service.client.delete(f"models/{model['id']}")
    findings = examine(service.settings, deep=True, older_than=0)
    assert [(finding.kind, finding.object, finding.message) for finding in findings if finding.open] == []
