"""Every request that the API page offers to try is taken by a running service, as it stands, given its files."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from tests.app.conftest import serve, upload_to
from tests.patience import PATIENCE

PLACEHOLDER = "file-5f0c1d2e3a4b5c6d7e8f9a0b"
PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8cfc000000301010018dd8db00000000049454e44ae426082"
    )
).decode()
CHAT = {"messages": [{"role": "user", "content": "2 and 2"}, {"role": "assistant", "content": "4"}]}
SHOWN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
PAIR = {"prompt": "2 and 2", "chosen": "4", "rejected": "5"}

#: The lines of a training file, by what they are for; an example without a row here is one of texts with labels.
LINES: dict[str, list[dict[str, Any]]] = {
    "affine": [{"x": [float(n)] * 10, "y": float(n)} for n in range(12)],
    "narrow": [{"x": [float(n), 1.0], "y": [0.0, float(n)]} for n in range(12)],
    "chats": [CHAT] * 12,
    "preferences": [PAIR] * 12,
    "numbers": [{"text": f"text {n}", "label": n / 10} for n in range(12)],
    "documents": [{"query": f"q {n // 3}", "document": f"d {n}", "score": n % 3 / 2} for n in range(12)],
    "words": [{"tokens": ["a", "b"], "labels": ["X", "Y"]}] * 12,
    "pairs": [{"anchor": f"a {n}", "positive": f"b {n}"} for n in range(12)],
    "pictures": [{"image": PNG, "label": "ab"[n % 2]} for n in range(12)],
    "captions": [{"text": f"text {n}", "image": PNG} for n in range(12)],
    "shown": [{"messages": [{"role": "user", "content": [SHOWN]}, CHAT["messages"][1]]}] * 12,
    "texts": [{"text": f"text {n}", "label": "abcd"[n % 4]} for n in range(12)],
}
FILES = {
    **dict.fromkeys(["requires_grad", "detach", "param_group", "dry_run", "audit", "controls"], "affine"),
    **dict.fromkeys(["causal-lm", "lora", "lora-merged", "ia3", "prompt-tuning"], "chats"),
    **dict.fromkeys(["devices", "compile"], "narrow"),
    "preference": "preferences",
    "text-regression": "numbers",
    "text-ranking": "documents",
    "token-classification": "words",
    "pairs": "pairs",
    "image-classification": "pictures",
    "image-text": "shown",
    "contrastive-image-text": "captions",
}
TABLE = b"width,height,kind\n" + b"".join(b"%d,1,%s\n" % (n, b"ab"[n % 2 : n % 2 + 1]) for n in range(12))


@pytest.fixture
def folders(embedded: FastAPI) -> None:
    for name, kind in (("minilm", "bert"), ("smollm", "llama"), ("llava", "llava"), ("clip", "clip")):
        folder: Path = embedded.state.backends.settings.models / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [f"{kind}Model"]}))


@pytest.mark.usefixtures("folders")
def test_every_job_of_the_page_is_taken(embedded: FastAPI) -> None:
    """Looked at first, which names what it is for; then made, and cancelled."""
    document = embedded.openapi()
    body = document["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]["application/json"]
    with serve(embedded) as url, httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as client:
        upload = upload_to(client)
        files = {name: upload(lines) for name, lines in LINES.items()}
        files["table"] = upload(TABLE, name="table.csv")
        for name, example in body["examples"].items():
            wanted = "table" if name == "tabular-classification" else FILES.get(name, "texts")
            job = {**example["value"], "training_file": files[wanted]}
            assert example["value"]["training_file"] == PLACEHOLDER
            looked = client.post("fine_tuning/jobs", json={**job, "dry_run": True})
            assert (looked.status_code, looked.json().get("object")) == (200, "fine_tuning.job.dry_run"), (name, looked)
            made = client.post("fine_tuning/jobs", json=job)
            assert made.status_code == 200, (name, made.text)
            if not job.get("dry_run"):
                assert client.post(f"fine_tuning/jobs/{made.json()['id']}/cancel").json()["status"] == "cancelled"
    said = {name: json.dumps(example["value"]) for name, example in body["examples"].items()}
    for part in ("revision", '"lora"', '"ia3"', '"prompt_tuning"', "new_tokens", "resources", '"compile"', '"dpo"'):
        assert any(part in each for each in said.values()), part


def test_every_sweep_of_the_page_is_taken(embedded: FastAPI) -> None:
    """With the number of jobs that its description promises, and cancelled."""
    document = embedded.openapi()
    body = document["paths"]["/v1/fine_tuning/sweeps"]["post"]["requestBody"]["content"]["application/json"]
    with serve(embedded) as url, httpx2.Client(base_url=f"{url}/v1/", timeout=60) as client:
        file = upload_to(client)(LINES["affine"])
        for name, example in body["examples"].items():
            assert example["value"]["job"]["training_file"] == PLACEHOLDER
            wanted = {**example["value"], "job": {**example["value"]["job"], "training_file": file}}
            made = client.post("fine_tuning/sweeps", json=wanted)
            assert made.status_code == 200, (name, made.text)
            assert made.json()["job_counts"]["total"] == {"grid": 6, "policies": 2, "variations": 3}[name]
            cancelled = client.post(f"fine_tuning/sweeps/{made.json()['id']}/cancel").json()
            assert cancelled["status"] == "cancelled"


def test_an_example_that_needs_something_says_what(embedded: FastAPI) -> None:
    """Without a model and a file of one's own only those of `affine` run, for which the page uploads a table."""
    paths = embedded.openapi()["paths"]
    for path in ("/v1/fine_tuning/jobs", "/v1/freeze_policies/preview"):
        examples = paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for name, example in examples.items():
            model = example["value"]["model"]
            model = {"path": model} if isinstance(model, str) else model
            alone = model.get("architecture") == "affine"
            assert ("(needs " in example["summary"]) != alone, name
            if path_of_model := model.get("path"):
                assert name == "hub" or f"needs the model {path_of_model}" in example["summary"], name


@pytest.mark.usefixtures("folders")
def test_every_other_request_of_the_page_is_taken(embedded: FastAPI) -> None:
    """Previews, webhook endpoints; models by the objects that they name."""
    document = embedded.openapi()
    with serve(embedded) as url, httpx2.Client(base_url=f"{url}/v1/", timeout=PATIENCE) as client:
        previews = document["paths"]["/v1/freeze_policies/preview"]["post"]["requestBody"]["content"]
        found = client.post("freeze_policies/preview", json=previews["application/json"]["examples"]["affine"]["value"])
        assert found.status_code == 200, found.text
        assert client.post("models", json=example(document, "ModelRegister")).status_code == 200
        made = client.post("webhook_endpoints", json=example(document, "EndpointCreate"))
        assert made.status_code == 200, made.text
        path = f"webhook_endpoints/{made.json()['id']}"
        assert client.post(path, json=example(document, "EndpointUpdate")).status_code == 200
        assert client.post(f"{path}/rotate_secret", json=example(document, "RotateSecret")).status_code == 200


def test_every_error_has_an_example_of_its_own(embedded: FastAPI) -> None:
    """By its status: a 404 that says what a 400 says leads astray."""
    shown: dict[str, set[str]] = {}
    for item in embedded.openapi()["paths"].values():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {})
                if status[0] in "45" and content:
                    shown.setdefault(status, set()).add(content["example"]["error"]["code"])
    assert shown["404"] == {"not_found"}
    assert shown["409"] == {"invalid_state", "idempotency_key_in_flight"}
    codes = [code for found in shown.values() for code in found]
    assert len(codes) == len(set(codes)) > 12


def example(document: dict[str, Any], schema: str) -> Any:
    return document["components"]["schemas"][schema]["examples"][0]
