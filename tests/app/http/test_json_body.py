"""A key that a JSON body has twice is refused by its path, in every body of the API; other JSON is read as it is."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.errors import InvalidRequest
from app.http.json_body import parse
from tests.app.conftest import AFFINE, Upload, rows

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"seed": 1, "seed": 1}', "seed"),
        ('{"seed": 1, "model": {}, "se\\u0065d": null}', "seed"),
        ('{"freeze_policy": {"freeze": ["weight"], "freeze": ["bias"]}}', "freeze_policy.freeze"),
        ('{"rules": [{"id": "a"}, {"action": "freeze", "id": "b", "action": "train"}]}', "rules[1].action"),
        ('{"a": {"x": 1, "x": 2}, "a": 3}', "a"),
        ('{"a": [[{"x": 1}, {"x": 1, "y": 2, "x": 3}]]}', "a[0][1].x"),
        ('{"": 1, "": 2}', ""),
    ],
)
def test_a_repeated_key_is_refused_by_its_path(body: str, path: str) -> None:
    """Wherever it is, however it is spelled, and whether or not the values are the same."""
    with pytest.raises(InvalidRequest) as refused:
        parse(body.encode())
    assert (refused.value.param, refused.value.code) == (path, "repeated_key")
    assert "is given twice" in refused.value.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_everything_else_is_read_as_python_reads_it(value: Any) -> None:
    """Equal keys in different objects, too."""
    assert parse(json.dumps(value).encode()) == value


@given(VALUES, st.text(max_size=5), VALUES, VALUES, st.data())
def test_no_repeated_key_gets_through(value: Any, key: str, first: Any, second: Any, data: st.DataObject) -> None:
    """Written into any document at any depth, it is found, and its path ends with its name."""
    written = f"{{{json.dumps(key)}: {json.dumps(first)}, {json.dumps(key)}: {json.dumps(second)}}}"
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            written = f"[{json.dumps(value)}, {written}]"
        else:
            written = f"{{{json.dumps(data.draw(st.text(max_size=3)))}: {written}}}"
    with pytest.raises(InvalidRequest) as refused:
        parse(written.encode())
    assert refused.value.code == "repeated_key"
    assert refused.value.param is not None and refused.value.param.endswith(key)


def test_every_body_of_the_api_is_read_like_this(client: TestClient, embedded: FastAPI) -> None:
    """By the operations of the document, so that no new router can forget it."""
    endpoint = {"name": "a", "url": "https://hooks.example.org/", "event_types": ["fine_tuning.job.failed"]}
    endpoint_id = client.post("webhook_endpoints", json=endpoint).json()["id"]
    tried = 0
    for path, item in embedded.openapi()["paths"].items():
        for method, operation in item.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                url = "http://testserver" + path.replace("{webhook_endpoint_id}", endpoint_id)
                answer = client.request(method, url, content='{"a": 1, "a": 2}', headers=JSON)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["param"]) == (400, "repeated_key", "a"), path
                tried += 1
    assert tried >= 7


def test_a_policy_that_is_written_twice_freezes_nothing_silently(client: TestClient, upload: Upload) -> None:
    """The last one would have won: `bias` frozen, `weight` trained, and no word about it."""
    body = {"model": AFFINE, "training_file": upload(rows())}
    written = json.dumps(body)[:-1] + ', "freeze_policy": {"freeze": ["weight"], "freeze": ["bias"]}}'
    error = client.post("fine_tuning/jobs", content=written, headers=JSON).json()["error"]
    assert error["param"] == "freeze_policy.freeze"
    assert error["message"] == "freeze_policy.freeze: the key 'freeze' is given twice; give it once"
    assert client.get("fine_tuning/jobs").json()["data"] == []
