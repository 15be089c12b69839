"""Adapters through HTTP: in peft's format over an untouched base, or merged into a changed one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

LINES = [{"text": "the cat sat on the mat"}, {"text": "a dog ran under the tree"}] * 8


@pytest.fixture(scope="module")
def decoder(service: Service) -> str:
    """A tiny Llama with random weights, where the service looks for base models."""
    pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tests.worker.trainer import tiny

    return tiny.llama(service.settings.models / "tiny-llama").name


@pytest.fixture(scope="module")
def texts(service: Service) -> str:
    return service.upload("\n".join(json.dumps(line) for line in LINES).encode(), "texts.jsonl")


def run(service: Service, decoder: str, texts: str, adapter: dict[str, Any], **changes: Any) -> Any:
    body = {
        "model": {"type": "transformers", "path": decoder, "task": "causal-lm", "adapter": adapter},
        "training_file": texts,
        "seed": 3,
        "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate": 0.01},
    }
    job = service.ended(str(service.post("fine_tuning/jobs", body | changes)["id"]))
    assert job["status"] == "succeeded", (job["error"], service.log())
    return job


def download(service: Service, model: str, folder: Path) -> Path:
    folder.mkdir()
    for file in service.get(f"models/{model}")["files"]:
        (folder / file["name"]).write_bytes(service.client.get(f"models/{model}/files/{file['name']}").content)
    return folder


def verified(service: Service, job: Any, result: Path, base: str, tmp_path: Path) -> Any:
    """The statement, once an outsider has verified it with the downloaded files and the base."""
    attestation, key = tmp_path / "attestation.json", tmp_path / "key.pub"
    attestation.write_bytes(service.client.get(f"fine_tuning/jobs/{job['id']}/attestation").content)
    key.write_text(service.get("signing_keys")["data"][0]["public_key"])
    folder = download(service, base, tmp_path / "base")
    assert verify([str(attestation), "--key", str(key), "--result", str(result), "--base", str(folder)]) == 0
    predicate = json.loads(base64.b64decode(json.loads(attestation.read_bytes())["payload"]))["predicate"]
    # The job shows what was proved: the policy with the rules that only the loaded model decided, and its counts.
    assert job["freeze_policy"] | {"digest": predicate["policy"]["digest"]} == predicate["policy"]
    assert job["freeze_plan"]["frozen"]["tensors"] == job["evidence"]["frozen_tensors"] == predicate["frozen"]["count"]
    return predicate


@pytest.mark.parametrize("adapter", [{"type": "prompt_tuning", "num_virtual_tokens": 3}, {"type": "ia3"}])
def test_adapter_over_an_untouched_base(
    service: Service, decoder: str, texts: str, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Every tensor of the base is claimed identical, and none of them is in the result."""
    job = run(service, decoder, texts, adapter)
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {path.name for path in result.iterdir()}
    predicate = verified(service, job, result, decoder, tmp_path)
    assert predicate["resultKind"] == "adapter"
    assert predicate["frozen"]["root"] == predicate["base"]["root"]


def test_merged_adapter_is_a_changed_base(service: Service, decoder: str, texts: str, tmp_path: Path) -> None:
    """A whole model: frozen is what was not merged into; and it is the base of the next job like any other."""
    job = run(service, decoder, texts, {"type": "lora", "r": 2, "merge": True})
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, decoder, tmp_path)
    assert predicate["resultKind"] == "full"
    (merged,) = predicate["policy"]["rules"]
    assert (predicate["policy"]["default"], merged["id"]) == ("freeze", "merged")
    roles = {row["name"]: row["role"] for row in predicate["parameters"]}
    assert {name for name, role in roles.items() if role == "trainable"} == set(merged["select"]["name"])
    assert roles["model.embed_tokens.weight"] == "frozen"
    assert "adapter" not in service.get(f"models/{job['fine_tuned_model']}")["spec"]
    again = run(service, decoder, texts, {}, model=job["fine_tuned_model"], freeze_policy={"freeze": ["model.norm.**"]})
    assert again["evidence"]["verdict"] == "verified"


def test_new_tokens_beside_frozen_rows(service: Service, decoder: str, texts: str, tmp_path: Path) -> None:
    """An outsider verifies that the old rows are the base's; the result is a base like any other."""
    words = [f"<new{number}>" for number in range(40)]
    names = ("model.embed_tokens.weight", "lm_head.weight")  # tied
    rules = [{"action": "train", "select": {"name": name, "rows": [[64, 68]]}} for name in names]
    model = {"type": "transformers", "path": decoder, "task": "causal-lm", "new_tokens": words}
    policy = {"default": "freeze", "rules": rules}
    job = run(service, decoder, texts, {}, model=model, freeze_policy=policy)
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, decoder, tmp_path)
    (split,) = [row for row in predicate["parameters"] if row["role"] == "split"]
    old, new = split["slices"]
    assert (old["rows"], old["action"], old["base"]) == ([0, 64], "freeze", old["result"])
    assert (new["rows"], new["action"], new["base"]) == ([64, 68], "train", None)
    assert new["initial"] != new["result"]
    assert "new_tokens" not in service.get(f"models/{job['fine_tuned_model']}")["spec"]
    again = run(service, decoder, texts, {}, model=job["fine_tuned_model"], freeze_policy={"freeze": ["model.norm.**"]})
    assert again["evidence"]["verdict"] == "verified"


def test_adapter_for_another_task_is_refused(service: Service, decoder: str) -> None:
    """At the request, not in the worker."""
    lines = b'{"text": "the cat", "label": "a"}\n{"text": "a dog", "label": "b"}\n' * 2
    file = service.upload(lines, "labels.jsonl")
    model: dict[str, Any] = {"type": "transformers", "path": decoder, "task": "text-classification"}
    model["adapter"] = {"type": "prompt_tuning"}
    error = service.post("fine_tuning/jobs", {"model": model, "training_file": file}, status=400)["error"]
    assert (error["code"], error["param"]) == ("unsupported_adapter", "model.adapter.type")
