"""Quantised bases that no worker could train on are refused at the request, where their configuration is here."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.db import Database, now
from app.models.tables import Model
from tests.app.conftest import Upload
from tests.app.jobs.requests.test_base_head import CLASSIFIER, describe
from tests.tamper.quantised import INTEGERS, PACKED, SMALL

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
ROWS = [{"text": f"text {at}", "label": "ab"[at % 2]} for at in range(8)]


def ask(client: TestClient, upload: Upload, **model: Any) -> dict[str, Any]:
    body = {"model": {"type": "transformers", "path": "small", **model}, "training_file": upload(ROWS)}
    answer: dict[str, Any] = client.post("fine_tuning/jobs", json={**body, "dry_run": True}).json()
    return answer


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"quant_method": "hqq", "bits": 4}, "(hqq): transformers reads it with a package of its own"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "(gptq): bits are 3, and 4 or 8 are read"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv"}, "(awq): version is 'gemv'"),
        ({"quant_method": "shrink"}, "an unknown quantiser"),
        (NF4 | {"bnb_4bit_quant_type": "nf5"}, "known are nf4, fp4"),
        (SMALL | {"activation_scheme": "token"}, "(fp8): activation_scheme is 'token'"),
    ],
)
def test_a_form_that_is_not_read(
    client: TestClient, upload: Upload, folder: Path, value: dict[str, Any], says: str
) -> None:
    """By name, with the reason, as the trainer would say it."""
    describe(folder, **CLASSIFIER, quantization_config=value)
    error = ask(client, upload, adapter={"type": "lora"})["error"]
    assert (error["param"], error["code"]) == ("model", "quantised_model")
    assert says in error["message"]


@pytest.mark.parametrize("value", [PACKED, SMALL, INTEGERS], ids=["compressed-tensors", "fp8", "gptq"])
def test_some_codes_are_trained_by_an_adapter_alone(
    client: TestClient, upload: Upload, folder: Path, value: dict[str, Any]
) -> None:
    """Loaders make floats of them, so that a whole model would not be what was proved."""
    describe(folder, **CLASSIFIER, quantization_config=value)
    error = ask(client, upload)["error"]
    assert (error["param"], error["code"]) == ("model.adapter", "quantised_model")
    assert ask(client, upload, adapter={"type": "lora"})["valid"] is True


def test_an_adapter_over_codes_is_not_merged(client: TestClient, upload: Upload, folder: Path) -> None:
    """Without merge the same request is valid."""
    describe(folder, **CLASSIFIER, quantization_config=NF4)
    error = ask(client, upload, adapter={"type": "lora", "merge": True})["error"]
    assert (error["param"], error["code"]) == ("model.adapter.merge", "quantised_model")
    assert ask(client, upload, adapter={"type": "lora"})["valid"] is True


def known(db: Database, *, layer: str, **weight: Any) -> None:
    """The base `small`, described by a worker: one linear layer of 64 by 64 in a block, and a head."""
    types = ["Bert", "ModuleList", "Block", layer]
    codes = {"name": "bert.layer.0.query.weight", "dtype": "BF16", "shape": [64, 64], "module_types": types} | weight
    head = {"name": "classifier.weight", "dtype": "F32", "shape": [2, 64], "module_types": ["Bert", "Linear"]}
    with db.write() as session:
        model = Model(id="small", created_at=now(session), owned_by="permafrost", kind="base", status="ready")
        model.spec = {"type": "transformers", "path": "small"}
        model.files, model.tensors = [{"name": "config.json", "size": 2, "sha256": "0", "blob": "x"}], []
        model.manifest = {"text-classification": [codes, head | {"initialised": True}]}
        session.add(model)


def test_estimates_count_codes_as_they_are_stored(
    client: TestClient, upload: Upload, folder: Path, db: Database
) -> None:
    """Half a byte a weight, beside an adapter whose matrices have the shape of the whole weight."""
    known(db, layer="Linear4bit", dtype="U8", shape=[2048, 1], unpacked=[64, 64])
    adapter = {"type": "lora", "r": 2, "target_modules": ["query"]}
    memory = ask(client, upload, task="text-classification", adapter=adapter)["estimate"]["memory_bytes"]
    assert memory["weights"] == 2048 + 4 * 2 * (64 + 64) + 4 * 2 * 64


def test_estimates_of_a_base_that_is_decoded(client: TestClient, upload: Upload, folder: Path, db: Database) -> None:
    """As it is in memory: 16 bits a weight, beside its scales."""
    known(db, layer="DecodedLinear", dtype="BF16")
    adapter = {"type": "lora", "r": 2, "target_modules": ["query"]}
    memory = ask(client, upload, task="text-classification", adapter=adapter)["estimate"]["memory_bytes"]
    assert memory["weights"] == 2 * 64 * 64 + 4 * 2 * (64 + 64) + 4 * 2 * 64


def test_estimates_of_a_base_that_is_quantised_for_the_job(
    client: TestClient, upload: Upload, folder: Path, db: Database
) -> None:
    """Codes and scales in place of the plain weight."""
    known(db, layer="Linear")
    adapter = {"type": "lora", "r": 2, "target_modules": ["query"]}
    spec: dict[str, Any] = {"task": "text-classification", "adapter": adapter}
    plain = ask(client, upload, **spec)["estimate"]["memory_bytes"]["weights"]
    packed = ask(client, upload, **spec, quantize="nf4")["estimate"]["memory_bytes"]["weights"]
    assert plain - packed == 2 * 64 * 64 - (64 * 64 // 2 + 4 * 64 + 4 * 16)
