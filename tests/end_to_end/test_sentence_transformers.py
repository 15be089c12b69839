"""A sentence-transformers folder through the service: its modules are trained, proved, downloaded and trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

pytestmark = pytest.mark.slow


def test_modules_stay_with_the_model(service: Service, tmp_path: Path) -> None:
    """Pooling, dense layer and normalisation are in the result, which the library and the next job load."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from tests.worker.trainer.sentence_folders import PAIRS, saved

    base = saved(service.settings.models / "tiny-sentences", "Dense", "Normalize", pooling="cls")
    pairs = service.upload("\n".join(map(json.dumps, PAIRS)).encode(), "pairs.jsonl")
    spec = {"type": "transformers", "path": base.name, "task": "pairs"}

    first = submit(service, spec, pairs, {"freeze": ["encoder.layer.0.**", "2_Dense.linear.weight"]})
    result = downloaded(service, first["fine_tuned_model"], tmp_path / "first")
    assert (result / "1_Pooling" / "config.json").is_file()
    assert accepted(service, first["id"], tmp_path, "--result", str(result), "--base", str(base))
    assert sentence_transformers.SentenceTransformer(str(result), device="cpu").encode("the cat").shape == (8,)

    second = submit(service, first["fine_tuned_model"], pairs, {"train": ["2_Dense.**"]})
    again = downloaded(service, second["fine_tuned_model"], tmp_path / "second")
    assert accepted(service, second["id"], tmp_path, "--result", str(again), "--base", str(result))
    sizes = {path.relative_to(again): path.stat().st_size for path in again.rglob("*.safetensors")}
    assert sizes.keys() == {Path("model.safetensors"), Path("2_Dense/model.safetensors")}

    changed = bytearray((again / "2_Dense" / "model.safetensors").read_bytes())
    changed[-1] ^= 1
    (again / "2_Dense" / "model.safetensors").write_bytes(changed)
    assert not accepted(service, second["id"], tmp_path, "--result", str(again), "--base", str(result))


def test_a_reranker_is_loaded_as_a_cross_encoder(service: Service, tmp_path: Path) -> None:
    """Its predictions are the sigmoid of the one output that was trained."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.worker.trainer import tiny

    base = tiny.bert(service.settings.models / "tiny-reranker")
    words = tiny.WORDS
    rows = [{"query": words[at // 4], "document": f"{words[at]} sat", "score": at % 4 / 3} for at in range(16)]
    file = service.upload("\n".join(map(json.dumps, rows)).encode(), "ranked.jsonl")
    spec = {"type": "transformers", "path": base.name, "task": "text-ranking"}
    job = submit(service, spec, file, {"freeze": ["bert.embeddings.**"]})
    result = downloaded(service, job["fine_tuned_model"], tmp_path / "result")
    assert accepted(service, job["id"], tmp_path, "--result", str(result), "--base", str(base))

    pair = ("the cat", "a dog ran")
    score = sentence_transformers.CrossEncoder(str(result), device="cpu").predict([pair])[0]
    inputs = transformers.AutoTokenizer.from_pretrained(result)(*pair, return_tensors="pt")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(result)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits.sigmoid().item()
    assert float(score) == pytest.approx(expected, abs=1e-5)


def submit(service: Service, model: Any, file: str, policy: dict[str, Any]) -> Any:
    body = {
        "model": model,
        "training_file": file,
        "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        "freeze_policy": policy,
    }
    job = service.ended(str(service.post("fine_tuning/jobs", body)["id"]))
    assert job["status"] == "succeeded", (job["error"], service.log())
    evidence = service.get(f"fine_tuning/jobs/{job['id']}/evidence")
    assert (evidence["verdict"], evidence["reason"]) == ("verified", None)
    return job


def downloaded(service: Service, model: str, folder: Path) -> Path:
    for file in service.get(f"models/{model}")["files"]:
        path = folder / file["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(service.client.get(f"models/{model}/files/{file['name']}").raise_for_status().content)
    return folder


def accepted(service: Service, job_id: str, folder: Path, *given: str) -> bool:
    """Whether `permafrost verify` accepts the job's attestation."""
    attestation, key = folder / "attestation.json", folder / "key.pub"
    attestation.write_bytes(service.client.get(f"fine_tuning/jobs/{job_id}/attestation").content)
    key.write_text(service.get("signing_keys")["data"][0]["public_key"])
    return verify([str(attestation), "--key", str(key), *given]) == 0
