"""Evidence of every form, made by real jobs and checked as an outsider would: rows, schedules, chains, adapters."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "very", "not", "a", "day"]


@pytest.fixture(scope="module")
def encoder(service: Service) -> dict[str, Any]:
    """The spec of a classifier over a tiny BERT with random weights."""
    transformers = pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    torch = pytest.importorskip("torch")
    folder = service.settings.models / "forms-bert"
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return {"type": "transformers", "path": folder.name, "task": "text-classification"}


@pytest.fixture(scope="module")
def reviews(service: Service) -> str:
    lines = [json.dumps({"text": f"{word} day", "label": word}) for _ in range(16) for word in ("good", "bad")]
    return service.upload("\n".join(lines).encode(), "forms.jsonl")


ROWS = {
    "id": "new-words",
    "action": "train",
    "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[9, 11]]},
}
REST = {"id": "rest", "action": "freeze", "select": {"name": "bert.**"}}
LATER = {
    "id": "later",
    "action": "freeze",
    "select": {"name": "bert.encoder.layer.1.**"},
    "when": [{"from_step": 0, "to_step": 2}],
}
LOWER = {"id": "lower", "action": "freeze", "select": {"name": ["bert.embeddings.**", "bert.encoder.layer.0.**"]}}


@pytest.mark.parametrize(
    ("policy", "roles"),
    [
        pytest.param({"rules": [ROWS, REST]}, {"split": 1, "new": 2}, id="rows"),
        pytest.param({"rules": [LOWER, LATER]}, {"scheduled": 16, "new": 2}, id="schedule"),
    ],
)
def test_rows_and_schedules(
    service: Service, encoder: dict[str, Any], reviews: str, policy: Any, roles: Any, tmp_path: Path
) -> None:
    """What a real job claims about rows and steps holds for an outsider with the base's files, and only then."""
    job = train(service, encoder, reviews, freeze_policy=policy)
    report = check(service, job, tmp_path, "--base", str(service.settings.models / "forms-bert"))
    assert report["level"] == 3
    assert {role: report["roles"].get(role) for role in roles} == roles
    damage(tmp_path / "result" / "model.safetensors")
    assert check(service, job, tmp_path, "--base", str(service.settings.models / "forms-bert"), fetch=False) is None


def test_a_chain_back_to_the_first_base(
    service: Service, encoder: dict[str, Any], reviews: str, tmp_path: Path
) -> None:
    """Two fine-tunes, the root of the first base, and both statements: the lower layer never moved."""
    first = train(service, encoder, reviews, freeze_policy={"rules": [REST]})
    second = train(service, first["fine_tuned_model"], reviews, freeze_policy={"rules": [LOWER]})
    root = service.get(f"fine_tuning/jobs/{first['id']}/evidence")["base_root"]
    (tmp_path / "first.json").write_bytes(attestation(service, first))
    report = check(service, second, tmp_path, "--base-root", root, "--previous", str(tmp_path / "first.json"))
    assert (report["level"], report["first_base_root"]) == (2, root)
    assert report["frozen"]["tensors"] == 21
    assert check(service, second, tmp_path, "--base-root", root, fetch=False) is None


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_tie_that_is_stored_under_two_names(service: Service, frozen: bool, tmp_path: Path) -> None:
    """A base that holds a tie twice has a result that does too: one tensor, two rows, both checked by an outsider."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    folder = service.settings.models / "forms-tied"
    if not folder.exists():
        torch.manual_seed(2)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, is_decoder=True, **sizes)
        transformers.BertLMHeadModel(config).save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        tie = {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].clone()}
        save_file(weights | tie, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    spec = {"type": "transformers", "path": folder.name, "task": "causal-lm"}
    lines = [json.dumps({"text": f"{word} day"}) for _ in range(8) for word in ("good", "bad")]
    file = service.upload("\n".join(lines).encode(), "tied.jsonl")
    names = ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"]
    policy = {"freeze": names if frozen else ["bert.encoder.**"]}
    job = train(service, spec, file, freeze_policy=policy)
    report = check(service, job, tmp_path, "--base", str(folder))
    assert report["level"] == 3
    result = load_file(tmp_path / "result" / "model.safetensors")
    assert torch.equal(result[names[0]], result[names[1]])
    rows = service.get(f"fine_tuning/jobs/{job['id']}/parameters")["data"]
    found = {each["name"]: (each["role"], each["changed"]) for each in rows}
    assert {found[name] for name in names} == {("frozen", False) if frozen else ("trainable", True)}
    loaded = transformers.BertLMHeadModel.from_pretrained(tmp_path / "result")
    assert torch.equal(loaded.state_dict()[names[1]], result[names[1]])


def test_an_adapter(service: Service, encoder: dict[str, Any], reviews: str, tmp_path: Path) -> None:
    """A LoRA job's result is the adapter; all of the base is claimed to be left where it is, and can be used again."""
    spec = {**encoder, "adapter": {"type": "lora", "r": 2, "target_modules": ["query", "value"]}}
    policy = {"train": ["base_model.**.lora_A.**", "base_model.**.lora_B.**", "base_model.model.classifier.**"]}
    job = train(service, spec, reviews, freeze_policy=policy)
    report = check(service, job, tmp_path, "--base", str(service.settings.models / "forms-bert"))
    assert report["level"] == 3
    assert report["roles"]["frozen"] >= 37
    assert {path.name for path in (tmp_path / "result").glob("*.safetensors")} == {"adapter_model.safetensors"}
    damage(tmp_path / "result" / "adapter_model.safetensors")
    assert check(service, job, tmp_path, fetch=False) is None
    assert service.get(f"models/{job['fine_tuned_model']}")["spec"]["adapter"]["r"] == 2
    train(service, encoder, reviews, freeze_policy={"rules": [REST]})


def test_an_adapter_is_trained_on(service: Service, encoder: dict[str, Any], reviews: str, tmp_path: Path) -> None:
    """Over the same base, proved again; its first values are the earlier one's, which the statement names."""
    spec = {**encoder, "adapter": {"type": "lora", "r": 2, "target_modules": ["query", "value"]}}
    first = train(service, spec, reviews)
    again = train(service, first["fine_tuned_model"], reviews)
    assert check(service, again, tmp_path, "--base", str(service.settings.models / "forms-bert"))["level"] == 3
    assert again["evidence"]["base_root"] == first["evidence"]["base_root"]
    rows = {job["id"]: statement(service, job)["parameters"] for job in (first, again)}
    before = {row["name"]: row["result"]["digest"] for row in rows[first["id"]] if row["role"] == "new"}
    after = {row["name"]: row["initial"]["digest"] for row in rows[again["id"]] if row["role"] == "new"}
    assert before == after
    assert statement(service, again)["base"]["origin"]["adapter"] == first["fine_tuned_model"]
    model = service.get(f"models/{again['fine_tuned_model']}")
    assert (model["base_model"], "start" in model["spec"]["adapter"]) == ("forms-bert", False)


def statement(service: Service, job: Any) -> Any:
    envelope = service.get(f"fine_tuning/jobs/{job['id']}/attestation")
    return json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def test_an_adapter_without_a_policy(service: Service, encoder: dict[str, Any], reviews: str, tmp_path: Path) -> None:
    """Its base is frozen all the same: the job says so from the start, and the signed policy names the new head."""
    spec = {**encoder, "adapter": {"type": "lora", "r": 2, "target_modules": ["query", "value"]}}
    job = train(service, spec, reviews)
    assert (job["evidence"]["verdict"], job["freeze_policy"]["default"]) == ("verified", "freeze")
    assert job["hyperparameters"]["learning_rate_multiplier"] == 1.0  # was "auto"
    assert job["method"]["supervised"]["hyperparameters"]["n_epochs"] == 1
    report = check(service, job, tmp_path, "--base", str(service.settings.models / "forms-bert"))
    assert (report["level"], report["roles"]["frozen"] >= 37) == (3, True)
    statement = json.loads(base64.b64decode(service.get(f"fine_tuning/jobs/{job['id']}/attestation")["payload"]))
    rules = {rule["id"]: rule["select"] for rule in statement["predicate"]["policy"]["rules"]}
    assert set(rules) == {"adapter", "new"}
    assert all(".classifier." in name for name in rules["new"]["name"])


def train(service: Service, model: Any, file: str, **fields: Any) -> Any:
    body = {"model": model, "training_file": file, "seed": 3, "hyperparameters": {"n_epochs": 1, "batch_size": 8}}
    job = service.ended(str(service.post("fine_tuning/jobs", {**body, **fields})["id"]))
    assert job["status"] == "succeeded", (job["error"], service.log())
    evidence = service.get(f"fine_tuning/jobs/{job['id']}/evidence")
    assert evidence["verdict"] == "verified", (evidence["reason"], evidence["violations"])
    return job


def attestation(service: Service, job: Any) -> bytes:
    return service.client.get(f"fine_tuning/jobs/{job['id']}/attestation").content


def check(service: Service, job: Any, folder: Path, *options: str, fetch: bool = True) -> Any:
    """The verifier's report on a job's result, or None when it rejects it."""
    result, report = folder / "result", folder / "report.json"
    if fetch:
        result.mkdir()
        for file in service.get(f"models/{job['fine_tuned_model']}")["files"]:
            content = service.client.get(f"models/{job['fine_tuned_model']}/files/{file['name']}").content
            (result / file["name"]).write_bytes(content)
    (folder / "attestation.json").write_bytes(attestation(service, job))
    (folder / "key.pub").write_text(service.get("signing_keys")["data"][0]["public_key"])
    arguments = [str(folder / "attestation.json"), "--key", str(folder / "key.pub"), "--result", str(result), "--json"]
    with report.open("w") as out, contextlib.redirect_stdout(out):
        status = verify([*arguments, *options])
    assert status in (0, 1), report.read_text()
    return json.loads(report.read_text()) if status == 0 else None


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
