"""The main job through HTTP: the smallest model, frozen in three ways and, as a control, in none."""

import base64
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from app.evidence.format.digest import read_file
from app.evidence.format.recipe_reading import read as read_recipe
from app.evidence.format.strict import read_json
from app.evidence.verifier.verify import main as verify
from tests.end_to_end.conftest import Service

FEATURES = 10


@pytest.fixture(scope="module")
def table(service: Service) -> str:
    """A CSV file of ten features and a target that depends on them."""
    chance = random.Random(0)
    lines = [",".join([*(f"x{column}" for column in range(FEATURES)), "y"])]
    for _ in range(64):
        values = [chance.uniform(-1, 1) for _ in range(FEATURES)]
        lines.append(",".join(f"{value:.6f}" for value in [*values, 2 * sum(values) + 1]))
    return service.upload("\n".join(lines).encode(), "table.csv")


def submit(service: Service, table: str, **fields: Any) -> str:
    body = {
        "model": {
            "type": "torch",
            "architecture": "affine",
            "kwargs": {"in_features": FEATURES, "out_features": 1},
        },
        "training_file": table,
        "seed": 7,
        "hyperparameters": {"n_epochs": 2, "batch_size": 16, "learning_rate": 0.05},
    }
    return str(service.post("fine_tuning/jobs", body | fields)["id"])


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_frozen_weight_is_proved(service: Service, table: str, mechanism: str, tmp_path: Path) -> None:
    """Every mechanism: the weight is bit-identical, the bias is not, and the evidence and the files say so."""
    job_id = submit(service, table, freeze_policy={"freeze": ["weight"], "mechanism": mechanism})
    job = service.ended(job_id)
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert job["evidence"]["verdict"] == "verified"
    assert job["freeze_plan"]["frozen"] == {"tensors": 1, "elements": 10, "bytes": 40}
    assert job["progress"]["percent"] == 100
    rows = {row["name"]: row for row in service.get(f"fine_tuning/jobs/{job_id}/parameters")["data"]}
    assert {name: (row["role"], row["changed"]) for name, row in rows.items()} == {
        "weight": ("frozen", False),
        "bias": ("trainable", True),
    }
    content = service.client.get(f"models/{job['fine_tuned_model']}/files/model.safetensors").content
    (tmp_path / "model.safetensors").write_bytes(content)
    downloaded = {tensor.name: tensor.sha256 for tensor in read_file(tmp_path / "model.safetensors").tensors}
    statement = _statement(service, job_id)
    said = {row["name"]: row for row in statement["predicate"]["parameters"]}
    assert downloaded == {name: row["result"]["digest"]["sha256"] for name, row in said.items()}
    assert said["weight"]["base"]["digest"] == said["weight"]["result"]["digest"]
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert subjects["model.safetensors"] == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_compiled_job_is_proved(service: Service, table: str) -> None:
    """`compile` within the sandbox of a trainer, where the compiler has to run."""
    wanted = {"n_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "compile": True}
    job = service.ended(submit(service, table, freeze_policy={"freeze": ["weight"]}, hyperparameters=wanted))
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert job["evidence"]["verdict"] == "verified"
    assert job["hyperparameters"]["compile"] is True


def test_curves_come_as_a_result_file(service: Service, table: str) -> None:
    """Where clients of OpenAI's API look: an id in `result_files`, and CSV without base64 behind it."""
    job = service.ended(submit(service, table, freeze_policy={"freeze": ["weight"]}))
    (file_id,) = job["result_files"]
    file = service.get(f"files/{file_id}")
    content = service.client.get(f"files/{file_id}/content").text
    assert (file["purpose"], file["bytes"]) == ("fine-tune-results", len(content.encode()))
    header, first = content.splitlines()[:2]
    assert header.startswith("step,") and first.startswith("1,")
    assert file_id in {each["id"] for each in service.get("files?purpose=fine-tune-results")["data"]}


def test_event_file_is_downloaded(service: Service, table: str) -> None:
    """On request, as a file of the model and as a result file of the job, the same bytes."""
    job = service.ended(submit(service, table, freeze_policy={"freeze": ["weight"]}, tensorboard=True))
    assert job["evidence"]["verdict"] == "verified", job["error"]
    names = {service.get(f"files/{each}")["filename"]: each for each in job["result_files"]}
    file_id = next(each for name, each in names.items() if "tfevents" in name)
    content = service.client.get(f"files/{file_id}/content").content
    path = f"models/{job['fine_tuned_model']}/files/events.out.tfevents.permafrost"
    assert content and content == service.client.get(path).content
    assert len(names) == 2


def test_how_a_tensor_got_there(service: Service, table: str) -> None:
    """The parameters list has the change at checkpoints, too; the last of them is the result."""
    settings = {"n_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "checkpoint_steps": 2, "keep_checkpoints": 3}
    job_id = submit(service, table, freeze_policy={"freeze": ["weight"]}, hyperparameters=settings)
    steps = service.ended(job_id)["progress"]["total_steps"]
    first, last = service.get(f"fine_tuning/jobs/{job_id}/parameters?sort=relative_l2")["data"]
    assert (first["name"], last["name"], last["history"]) == ("bias", "weight", [])
    reached = [each["step"] for each in first["history"]]
    assert reached == sorted(reached) and reached and reached[-1] < steps
    assert all(0 < each["l2"] < first["stats"]["l2"] for each in first["history"])


def test_recipe_says_how_it_was_made(service: Service, table: str) -> None:
    """Signed beside the statement: data and checkpoints as the supervisor saw them, and the trainer's word."""
    settings = {"n_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "checkpoint_steps": 2, "keep_checkpoints": 9}
    job_id = submit(service, table, freeze_policy={"freeze": ["weight"]}, hyperparameters=settings, seed=11)
    steps = service.ended(job_id)["progress"]["total_steps"]
    envelope = json.loads(service.client.get(f"fine_tuning/jobs/{job_id}/attestation").content)
    recipe = read_recipe(read_json(base64.b64decode(envelope["recipe"]["payload"])))
    assert (recipe.job_id, recipe.attempt, recipe.request.seed) == (job_id, 1, 11)
    assert recipe.request.hyperparameters["batch_size"] == 16
    content = service.client.get(f"files/{table}/content").content
    assert recipe.observed.training.sha256 == hashlib.sha256(content).hexdigest()
    assert recipe.observed.started_at <= recipe.observed.finished_at
    assert {"torch", "transformers"} <= recipe.observed.packages.keys()
    assert {state.step for state in recipe.observed.checkpoints} <= set(range(2, steps, 2))
    names = {file.name for state in recipe.observed.checkpoints for file in state.files}
    assert {"model.safetensors", "optimizer.safetensors", "state.json"} <= names
    assert (recipe.reported.steps, recipe.reported.exact) == (steps, True)
    assert recipe.reported.hyperparameters["learning_rate"] == 0.05
    assert recipe.reported.environment["threads"] == 1
    assert recipe.reported.flops and recipe.reported.loss is not None


def test_outsider_verifies_it(service: Service, table: str, tmp_path: Path) -> None:
    """With the attestation, the public key and the downloaded files alone; a flipped bit is then refused."""
    job_id = submit(service, table, freeze_policy={"freeze": ["weight"]}, evidence={"nonce": "n-1"})
    job = service.ended(job_id)
    attestation, key = tmp_path / "attestation.json", tmp_path / "key.pub"
    attestation.write_bytes(service.client.get(f"fine_tuning/jobs/{job_id}/attestation").content)
    key.write_text(service.get("signing_keys")["data"][0]["public_key"])
    result, base = tmp_path / "result", tmp_path / "base"
    _download(service, job["fine_tuned_model"], result)
    _download(service, f"init:{job_id}", base)
    command = [str(attestation), "--key", str(key), "--result", str(result)]
    assert verify([*command, "--base", str(base), "--nonce", "n-1"]) == 0
    assert verify([*command, "--base-root", job["evidence"]["base_root"]]) == 0
    weights = result / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    assert verify(command) == 1


def test_violation_is_no_proof(service: Service, table: str, tmp_path: Path) -> None:
    """A statement that records a violation verifies for nobody, however well it is signed."""
    group = {"select": {"name": "weight"}, "options": {"requires_grad": False}}
    job_id = submit(
        service,
        table,
        freeze_policy={"freeze": ["weight"], "enforce": False},
        hyperparameters={"n_epochs": 1, "optimizer": {"name": "sgd", "groups": [group]}},
    )
    job = service.ended(job_id)
    attestation, key = tmp_path / "attestation.json", tmp_path / "key.pub"
    attestation.write_bytes(service.client.get(f"fine_tuning/jobs/{job_id}/attestation").content)
    key.write_text(service.get("signing_keys")["data"][0]["public_key"])
    _download(service, job["fine_tuned_model"], tmp_path / "result")
    assert verify([str(attestation), "--key", str(key), "--result", str(tmp_path / "result")]) == 1


def test_mechanisms_train_the_rest_to_the_same_bits(service: Service, table: str) -> None:
    """The three ways differ in how they freeze and in nothing else."""
    jobs = [
        submit(service, table, freeze_policy={"freeze": ["weight"], "mechanism": mechanism})
        for mechanism in ("requires_grad", "detach", "param_group")
    ]
    for job_id in jobs:
        service.ended(job_id)
    roots = {_statement(service, job_id)["predicate"]["result"]["root"] for job_id in jobs}
    assert len(roots) == 1


def test_ignored_option_is_caught(service: Service, table: str) -> None:
    """The group option `requires_grad: false` freezes nothing: the evidence names the weight and the first step."""
    group = {"select": {"name": "weight"}, "options": {"requires_grad": False}}
    job_id = submit(
        service,
        table,
        freeze_policy={"freeze": ["weight"], "enforce": False},
        hyperparameters={"n_epochs": 2, "optimizer": {"name": "sgd", "groups": [group]}},
    )
    job = service.ended(job_id)
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert job["evidence"]["verdict"] == "violated"
    assert [(each["name"], each["first_bad_step"]) for each in job["evidence"]["violations"]] == [("weight", 1)]
    kept = service.get(f"fine_tuning/jobs/{job_id}/evidence")["violations"]
    assert kept == job["evidence"]["violations"]
    assert re.fullmatch(r"aten::\w+ at \S+\.py:\d+ in \w+", kept[0]["operation"])


def test_bad_data_names_its_line(service: Service) -> None:
    """A cell that is no number never reaches training; the answer names line and column."""
    file_id = service.upload(b"a,b,y\n1,2,3\n4,five,6\n", "bad.csv")
    body = {
        "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}},
        "training_file": file_id,
    }
    answer = service.post("fine_tuning/jobs", body, status=400)["error"]
    assert [(each["line"], each["field"]) for each in answer["errors"]] == [(3, "b")]


def test_events_tell_the_story(service: Service, table: str) -> None:
    """From creation to the end, numbered without gaps."""
    job_id = submit(service, table, freeze_policy={"freeze": ["weight"]})
    service.ended(job_id)
    events = sorted(service.get(f"fine_tuning/jobs/{job_id}/events?limit=100")["data"], key=lambda each: each["seq"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    messages = [event["message"] for event in events]
    assert messages[0] == "Job created"
    assert messages[-1] == "Job succeeded"
    assert any(event["type"] == "metrics" and event["data"]["step"] == 1 for event in events)


def _download(service: Service, model: str, folder: Path) -> None:
    folder.mkdir()
    for file in service.get(f"models/{model}")["files"]:
        (folder / file["name"]).write_bytes(service.client.get(f"models/{model}/files/{file['name']}").content)


def _statement(service: Service, job_id: str) -> Any:
    envelope = service.get(f"fine_tuning/jobs/{job_id}/attestation")
    return json.loads(base64.b64decode(envelope["payload"]))
