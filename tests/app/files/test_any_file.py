"""Any file at all: uploaded and trained on, or refused in a way that can be answered; never an error of ours."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.files.formats import TASKS
from tests.app.conftest import AFFINE
from tests.app.files.odd_files import FILES

MODELS: list[Any] = [AFFINE, {**AFFINE, "task": "classification"}, {"type": "transformers", "path": "small"}]
DATA: list[Any] = [{"features": ["x", "a b"]}, {"target": "label"}, {"features": ["text"], "target": ["y", "label"]}]


@pytest.fixture
def folder(embedded: FastAPI) -> None:
    """A base that classifies, which no worker has looked at yet."""
    place = embedded.state.backends.settings.models / "small"
    place.mkdir(parents=True)
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
    (place / "config.json").write_text(json.dumps(config | {"hidden_size": 16, "num_hidden_layers": 2}))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    FILES,
    FILES | st.none(),
    st.sampled_from(MODELS),
    st.none() | st.sampled_from(TASKS),
    st.none() | st.none() | st.sampled_from(DATA),
)
def test_any_file_over_http(client: TestClient, folder: None, training, validation, model, task, data) -> None:
    """Upload, dry run and job: each is done, or a 4xx with a message, and the first two agree."""
    body: dict[str, Any] = {"model": model, "task": task, "data": data, "freeze_policy": {"freeze": ["weight"]}}
    for param, file in (("training_file", training), ("validation_file", validation)):
        if file is not None:
            answer = client.post("files", files={"file": file}, data={"purpose": "fine-tune"})
            assert answer.status_code in (200, 400), answer.text
            if answer.status_code == 400:
                return
            body[param] = answer.json()["id"]

    tried = client.post("fine_tuning/jobs", json={**body, "dry_run": True})
    made = client.post("fine_tuning/jobs", json=body)
    assert tried.status_code == made.status_code
    assert made.status_code in (200, 400), made.text
    if made.status_code == 400:
        assert made.json()["error"]["message"]
        assert made.json()["error"]["code"] == tried.json()["error"]["code"]
    else:
        assert client.post(f"fine_tuning/jobs/{made.json()['id']}/cancel").status_code == 200
