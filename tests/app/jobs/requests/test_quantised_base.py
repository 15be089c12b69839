"""Quantised bases that no worker could train on are refused at the request, where their configuration is here."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import Upload
from tests.app.jobs.requests.test_base_head import CLASSIFIER, describe

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
ROWS = [{"text": f"text {at}", "label": "ab"[at % 2]} for at in range(8)]


def ask(client: TestClient, upload: Upload, **model: Any) -> dict[str, Any]:
    body = {"model": {"type": "transformers", "path": "small", **model}, "training_file": upload(ROWS)}
    answer: dict[str, Any] = client.post("fine_tuning/jobs", json={**body, "dry_run": True}).json()
    return answer


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"quant_method": "gptq", "bits": 4}, "(gptq): transformers reads it with a package of its own"),
        ({"quant_method": "shrink"}, "an unknown quantiser"),
        (NF4 | {"bnb_4bit_quant_type": "nf5"}, "known are nf4, fp4"),
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


def test_an_adapter_over_codes_is_not_merged(client: TestClient, upload: Upload, folder: Path) -> None:
    """Without merge the same request is valid."""
    describe(folder, **CLASSIFIER, quantization_config=NF4)
    error = ask(client, upload, adapter={"type": "lora", "merge": True})["error"]
    assert (error["param"], error["code"]) == ("model.adapter.merge", "quantised_model")
    assert ask(client, upload, adapter={"type": "lora"})["valid"] is True
