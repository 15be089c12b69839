"""/v1/freeze_policies: the schema, and what a policy would freeze."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.errors import PolicyError
from app.freeze.plan import TensorInfo, resolve
from app.freeze.policy import Policy
from app.freeze.schemas import json_schema
from app.http.dependencies import Backends
from tests.app.conftest import AFFINE
from tests.app.models.models import NAMES, SPEC, add_model


def test_the_schema_is_published(client: TestClient):
    """A document of its own, with its media type; also a component of the OpenAPI document."""
    answer = client.get("freeze_policies/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json() == json_schema()
    jsonschema_rs.meta.validate(answer.json())
    assert "FreezePolicy" in client.get("http://testserver/openapi.json").json()["components"]["schemas"]


def preview(client: TestClient, **body: Any) -> Any:
    policy = {"freeze": ["weight"]}
    return client.post("freeze_policies/preview", json={"model": AFFINE, "freeze_policy": policy, **body})


def test_a_plan_is_read_page_by_page(client: TestClient) -> None:
    """Tensors after `after`; the totals are those of the whole plan on each page."""
    first = preview(client, limit=1).json()
    assert ([row["name"] for row in first["data"]], first["has_more"]) == (["bias"], True)
    rest = preview(client, limit=1, after=first["last_id"]).json()
    assert ([row["name"] for row in rest["data"]], rest["has_more"]) == (["weight"], False)
    assert first["freeze_plan"] == rest["freeze_plan"]
    beyond = preview(client, after="weight").json()
    assert (beyond["data"], beyond["first_id"], beyond["last_id"]) == ([], None, None)


def test_an_unknown_cursor_is_refused_by_name(client: TestClient) -> None:
    answer = preview(client, after="wieght")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")
    assert "no tensor 'wieght' in this plan" in answer.json()["error"]["message"]


def test_a_model_whose_tensors_are_not_known_is_refused(client: TestClient) -> None:
    """An architecture is not built to answer a request."""
    model = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 2, "out_features": 1, "hidden": [3]}}
    answer = preview(client, model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_described")
    assert answer.json()["error"]["message"].startswith("the tensors of 'mlp' are not known")


@pytest.mark.parametrize("model", ["tiny", SPEC])
def test_a_model_that_a_worker_has_yet_to_read_is_worth_another_try(
    client: TestClient, backends: Backends, tmp_path: Path, model: Any
) -> None:
    """The official SDK repeats such a request; nobody is sent to register what is registered."""
    add_model(backends, tmp_path, status="pending", manifest=None)
    answer = preview(client, model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_pending")
    assert answer.headers["retry-after"] == "2"
    assert "x-should-retry" not in answer.headers
    assert "register" not in answer.json()["error"]["message"]


def test_a_policy_that_decides_nothing_is_refused(client: TestClient) -> None:
    """With the path of the rule, as a job is."""
    answer = preview(client, freeze_policy={"freeze": ["wieght"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_freeze_policy")
    assert answer.json()["error"]["param"].startswith("freeze_policy")


@pytest.fixture
def backends(embedded: FastAPI) -> Backends:
    made: Backends = embedded.state.backends
    return made


def per_task(backends: Backends, folder: Path, *, own: bool) -> None:
    """A base without a head of its own, whose tensors have other names under a head."""
    bare = [TensorInfo(name.removeprefix("bert."), (2, 3), "F32").to_json() for name in NAMES[:2]]
    whole = [TensorInfo(name, (2, 3), "F32").to_json() for name in NAMES]
    stored = {"text-classification": whole, "token-classification": "text-classification"} | ({"": bare} if own else {})
    add_model(backends, folder, spec={"type": "transformers", "path": "tiny"}, manifest=stored)


@pytest.mark.parametrize("own", [True, False])
def test_a_task_that_is_missing_is_named(client: TestClient, backends: Backends, tmp_path: Path, own: bool) -> None:
    """Names of a task's model are not those of the bare one: the refusal says which task they fit."""
    per_task(backends, tmp_path, own=own)
    body = {"model": "tiny", "freeze_policy": {"freeze": ["bert.**"]}}
    answer = client.post("freeze_policies/preview", json=body)
    assert answer.status_code == 400
    assert "`task` (--task)" in answer.json()["error"]["message"]
    assert "text-classification" in answer.json()["error"]["message"]

    found = client.post("freeze_policies/preview", json={**body, "task": "text-classification"}).json()
    assert found["freeze_plan"]["frozen"]["tensors"] == 2

    body["freeze_policy"] = {"freeze": ["roberta.**"]}
    assert ("--task" in client.post("freeze_policies/preview", json=body).json()["error"]["message"]) == (not own)


@pytest.mark.parametrize(
    "given", [["model.embed_tokens.weight"], ["lm_head.weight"], ["lm_head.*", "model.embed_tokens.*"]]
)
@pytest.mark.parametrize("stored_twice", [True, False])
def test_all_agree_about_ties(
    client: TestClient, embedded: FastAPI, tmp_path: Path, *, given: list[str], stored_twice: bool
) -> None:
    """Preview, submission and worker, of a tie whose files have one of its names or both (as Qwen3's have)."""
    tiny = pytest.importorskip("tests.worker.trainer.tiny", reason="the worker's dependencies are not installed")
    from safetensors.torch import load_file, save_file

    from app.specs.models import TransformersSpec
    from worker.trainer.freeze.inventory import tensors
    from worker.trainer.models import loading, manifest

    folder = tiny.llama(tmp_path / "tied")
    weights = load_file(folder / "model.safetensors")
    if stored_twice:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    spec = TransformersSpec(path="tied")
    described = manifest.describe(spec, folder, task=None)
    add_model(embedded.state.backends, tmp_path / "m", "tied", manifest=described, spec=spec.to_json())
    policy = {"freeze": given}
    live = tensors(loading.load(spec, folder, task="causal-lm", labels=None, seed=0).model)
    try:
        frozen = {each.name for each in resolve(Policy.from_json(policy), live).decisions if each.action == "freeze"}
    except PolicyError:
        frozen = set()

    uploaded = client.post("files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", b'{"text": "a"}\n' * 2)})
    body = {"model": "tied", "training_file": uploaded.json()["id"], "freeze_policy": policy}
    answers = [
        client.post("freeze_policies/preview", json={"model": "tied", "freeze_policy": policy, "limit": 1000}),
        client.post("fine_tuning/jobs", json=body | {"dry_run": True}),
        client.post("fine_tuning/jobs", json=body),
    ]
    assert {answer.status_code for answer in answers} == ({200} if frozen else {400}), [one.text for one in answers]
    if frozen:
        assert frozen == {row["name"] for row in answers[0].json()["data"] if row["action"] == "freeze"}
        assert len(frozen) == 1  # one tensor, whatever its names
    else:
        assert all("name both in one rule" in answer.json()["error"]["message"] for answer in answers)
