"""/v1/freeze_policies: the schema, and what a policy would freeze."""

from typing import Any

import jsonschema_rs
from starlette.testclient import TestClient

from app.freeze.schemas import json_schema
from tests.app.conftest import AFFINE


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


def test_a_policy_that_decides_nothing_is_refused(client: TestClient) -> None:
    """With the path of the rule, as a job is."""
    answer = preview(client, freeze_policy={"freeze": ["wieght"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_freeze_policy")
    assert answer.json()["error"]["param"].startswith("freeze_policy")
