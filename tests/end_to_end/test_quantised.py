"""A base stored in NF4 through HTTP: an adapter beside it, norms trained in it, and what is refused at the request."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Service
from tests.end_to_end.test_adapters import LINES, download, run, verified

LORA = {"type": "lora", "r": 2}


@pytest.fixture(scope="module")
def packed(service: Service) -> str:
    """A tiny Llama with quantised layers, where the service looks for base models."""
    pytest.importorskip("bitsandbytes", reason="the worker's dependencies are not installed")
    from tests.worker.trainer import quantised_bases

    return quantised_bases.llama(service.settings.models / "tiny-nf4", "nf4-nested").name


@pytest.fixture(scope="module")
def texts(service: Service) -> str:
    return service.upload("\n".join(json.dumps(line) for line in LINES).encode(), "quantised.jsonl")


def test_an_adapter_over_codes(service: Service, packed: str, texts: str, tmp_path: Path) -> None:
    """Every code and scale of the base is claimed identical, and an outsider verifies it with the base at hand."""
    job = run(service, packed, texts, LORA)
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, packed, tmp_path)
    assert predicate["frozen"]["root"] == predicate["base"]["root"]
    frozen = {row["base"]["name"] for row in predicate["parameters"] if row["role"] == "frozen"}
    assert "model.layers.1.mlp.up_proj.weight.nested_absmax" in frozen


def test_a_whole_model_keeps_its_codes(service: Service, packed: str, texts: str, tmp_path: Path) -> None:
    """Composed on download from the base; and it is the base of the next job like any other."""
    policy = {"train": ["model.norm.weight"]}
    job = run(service, packed, texts, {}, model=spec(packed), freeze_policy=policy)
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, packed, tmp_path)
    assert predicate["resultKind"] == "full"
    changed = [row["name"] for row in predicate["parameters"] if row["changed"]]
    assert changed == ["model.norm.weight"]
    again = run(service, packed, texts, {}, model=job["fine_tuned_model"], freeze_policy=policy)
    assert again["evidence"]["verdict"] == "verified"


def test_a_plain_base_is_quantised_for_a_job(service: Service, texts: str, tmp_path: Path) -> None:
    """The statement is about the plain base, and each weight has the digest of what a process without data made."""
    from tests.worker.trainer import tiny

    plain = tiny.llama(service.settings.models / "tiny-plain", hidden_size=64).name
    job = run(service, plain, texts, LORA, model=spec(plain) | {"adapter": LORA, "quantize": "nf4"})
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, plain, tmp_path)
    assert predicate["frozen"]["root"] == predicate["base"]["root"]
    quantised = [row for row in predicate["parameters"] if row.get("quantised")]
    assert len(quantised) == 14 and all(row["loaded"] == row["trained"] == row["quantised"] for row in quantised)
    again = run(service, plain, texts, {}, model=job["fine_tuned_model"])  # its adapter, over the same codes
    assert again["model_spec"]["quantize"] == "nf4" and again["evidence"]["verdict"] == "verified"


def test_an_adapter_over_float8(service: Service, texts: str, tmp_path: Path) -> None:
    """Codes and block scales are proved as they are stored; what they became has a digest of a process without data."""
    from tests.worker.trainer import block_scaled_bases

    small = block_scaled_bases.qwen3(service.settings.models / "tiny-fp8").name
    job = run(service, small, texts, LORA)
    assert job["evidence"]["verdict"] == "verified"
    result = download(service, job["fine_tuned_model"], tmp_path / "result")
    predicate = verified(service, job, result, small, tmp_path)
    assert predicate["frozen"]["root"] == predicate["base"]["root"]
    decoded = [row for row in predicate["parameters"] if row.get("decoded")]
    assert len(decoded) == 14 and all(row["loaded"] == row["trained"] == row["decoded"] for row in decoded)
    assert {row["base"]["dtype"] for row in decoded} == {"F8_E4M3"}
    known = service.post(
        "fine_tuning/jobs", {"training_file": texts, "model": spec(small), "dry_run": True}, status=400
    )
    assert known["error"]["param"] == "model.adapter"
    merged = spec(small) | {"adapter": LORA | {"merge": True}}
    assert refused(service, texts, model=merged) == ("quantised_model", "model.adapter.merge")
    again = run(service, small, texts, {}, model=job["fine_tuned_model"])  # its adapter, over the same codes
    assert again["evidence"]["verdict"] == "verified"


def test_what_is_refused_at_the_request(service: Service, packed: str, texts: str) -> None:
    """A form that is not read, and an adapter to merge; by the name of the tensor, once the base is known."""
    other = service.settings.models / "tiny-gptq"
    shutil.copytree(service.settings.models / packed, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert refused(service, texts, model=spec("tiny-gptq")) == ("quantised_model", "model")
    merged = spec(packed) | {"adapter": LORA | {"merge": True}}
    assert refused(service, texts, model=merged) == ("quantised_model", "model.adapter.merge")
    whole = service.post(
        "fine_tuning/jobs", {"training_file": texts, "model": spec(packed) | {"quantize": "nf4"}}, status=400
    )
    assert "give an adapter" in whole["error"]["message"]
    twice = spec(packed) | {"adapter": LORA, "quantize": "nf4"}
    assert refused(service, texts, model=twice) == ("quantised_model", "model.quantize")
    train = {"train": ["**.q_proj.weight"]}
    known = refused(service, texts, model=spec(packed), freeze_policy=train)
    assert known == ("quantised_weights_train", "freeze_policy.train")


def spec(path: str) -> dict[str, Any]:
    return {"type": "transformers", "path": path, "task": "causal-lm"}


def refused(service: Service, texts: str, **body: Any) -> tuple[str, str]:
    answer = service.post("fine_tuning/jobs", {"training_file": texts, **body}, status=400)
    return answer["error"]["code"], answer["error"]["param"]
