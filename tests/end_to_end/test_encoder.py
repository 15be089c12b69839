"""A text encoder from a folder: frozen under a new head, then used as the base of the next job."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "very", "not", "a", "day"]


@pytest.fixture(scope="module")
def encoder(service: Service) -> str:
    """The name of a tiny BERT with random weights, placed where the service looks for base models."""
    transformers = pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    torch = pytest.importorskip("torch")
    folder = service.settings.models / "tiny-bert"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder.name


@pytest.fixture(scope="module")
def reviews(service: Service) -> str:
    lines = [
        json.dumps({"text": f"{'very ' * (index % 3)}{word} day", "label": word})
        for index in range(16)
        for word in ("good", "bad")
    ]
    return service.upload("\n".join(lines).encode(), "reviews.jsonl")


def submit(service: Service, model: Any, file: str, policy: dict[str, Any]) -> Any:
    body = {
        "model": model,
        "training_file": file,
        "seed": 3,
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        "freeze_policy": policy,
    }
    job = service.ended(str(service.post("fine_tuning/jobs", body)["id"]))
    assert job["status"] == "succeeded", (job["error"], service.log())
    return job


def test_frozen_encoder_and_what_comes_after(service: Service, encoder: str, reviews: str, tmp_path: Path) -> None:
    """The head learns over a proved encoder; a second job starts from the result, and its statement names the first."""
    spec = {"type": "transformers", "path": encoder, "task": "text-classification"}
    first = submit(service, spec, reviews, {"freeze": ["bert.**"], "mechanism": "detach"})
    assert first["evidence"]["verdict"] == "verified"
    kept = first["progress"]["prefix_cache"]
    assert (kept["in_use"], kept["modules"]) == (True, ["bert"])
    assert first["hyperparameters"]["frozen_dropout"] is False
    rows = service.get(f"fine_tuning/jobs/{first['id']}/parameters?limit=100")["data"]
    assert {row["role"] for row in rows if row["name"].startswith("bert.")} <= {"frozen", "buffer"}
    head = next(row for row in rows if row["name"] == "classifier.weight")
    assert head["role"] == "new"
    assert head["changed_elements"] == 32
    assert head["stats"]["l2"] > 0

    another = submit(service, spec, reviews, {"freeze": ["bert.**"]})
    assert another["progress"]["prefix_cache"]["reused"] > 0, "the encoder's results should serve the next job"

    second = submit(service, first["fine_tuned_model"], reviews, {"freeze": ["classifier.**"]})
    assert second["evidence"]["verdict"] == "verified"
    assert second["evidence"]["base_root"] == service.get(f"fine_tuning/jobs/{first['id']}/evidence")["result_root"]
    previous = _payload(service, second["id"])["predicate"]["previous"]["digest"]["sha256"]
    assert previous == hashlib.sha256(_raw_payload(service, first["id"])).hexdigest()

    _download(service, second["fine_tuned_model"], tmp_path / "result")
    _download(service, first["fine_tuned_model"], tmp_path / "base")
    (tmp_path / "attestation.json").write_bytes(
        service.client.get(f"fine_tuning/jobs/{second['id']}/attestation").content
    )
    (tmp_path / "key.pub").write_text(service.get("signing_keys")["data"][0]["public_key"])
    outsider = [str(tmp_path / "attestation.json"), "--key", str(tmp_path / "key.pub")]
    assert verify([*outsider, "--result", str(tmp_path / "result"), "--base", str(tmp_path / "base")]) == 0


def test_result_loads_as_an_ordinary_model(service: Service, encoder: str, reviews: str, tmp_path: Path) -> None:
    """What is downloaded is a folder that transformers reads, and its encoder has the base's bytes."""
    transformers = pytest.importorskip("transformers")
    spec = {"type": "transformers", "path": encoder, "task": "text-classification"}
    job = submit(service, spec, reviews, {"freeze": ["bert.**"]})
    _download(service, job["fine_tuned_model"], tmp_path / "result")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "result")
    base = transformers.AutoModel.from_pretrained(service.settings.models / encoder)
    for name, tensor in base.state_dict().items():
        if not name.startswith("pooler."):
            assert model.bert.state_dict()[name].equal(tensor), name


def test_policy_that_matches_nothing_never_trains(service: Service, encoder: str, reviews: str) -> None:
    """Refused at the latest before training, with the nearest real name."""
    body = {
        "model": {"type": "transformers", "path": encoder, "task": "text-classification"},
        "training_file": reviews,
        "freeze_policy": {"freeze": ["bret.**"]},
    }
    answer = service.client.post("fine_tuning/jobs", json=body).json()
    # Where the model has no manifest for this task yet, the trainer is the first to find it.
    error = answer["error"] or service.ended(answer["id"])["error"]
    assert error["code"] == "invalid_freeze_policy"
    assert "bert" in error["message"]


def _raw_payload(service: Service, job_id: str) -> bytes:
    return base64.b64decode(service.get(f"fine_tuning/jobs/{job_id}/attestation")["payload"])


def _payload(service: Service, job_id: str) -> Any:
    return json.loads(_raw_payload(service, job_id))


def _download(service: Service, model: str, folder: Path) -> None:
    folder.mkdir()
    for file in service.get(f"models/{model}")["files"]:
        (folder / file["name"]).write_bytes(service.client.get(f"models/{model}/files/{file['name']}").content)
