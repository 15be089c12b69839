"""A request that does not fit its schema is refused by field, with OpenAI's envelope."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.http.size_limit import MAX_JSON_BYTES

JSON = {"content-type": "application/json"}


BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", JSON, 400, "missing_field"),
    "not JSON": (b"{model: 1}", JSON, 400, "invalid_json"),
    "half a document": (b'{"model": ', JSON, 400, "invalid_json"),
    "not UTF-8": (b'{"model": "\xff"}', JSON, 400, "invalid_body"),
    "nested without end": (b"[" * 100_000, JSON, 400, "invalid_body"),
    "a list": (b"[]", JSON, 400, "invalid_value"),
    "a form": (b"model=x", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "compressed": (b"\x1f\x8b\x08", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type"),
    "no type": (b"{}", {}, 415, "unsupported_media_type"),
    "too large": (b" " * (MAX_JSON_BYTES + 1), JSON, 413, "request_too_large"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_request_is_refused(client: TestClient, case: str) -> None:
    """Before anything is looked up."""
    content, headers, status, code = BAD_BODIES[case]
    answer = client.post("fine_tuning/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (
            {"training_file": "file-0", "hyperparameters": {"n_epochs": "3"}},
            [
                ("model", "this field is required"),
                ("hyperparameters.n_epochs", "input should be 'auto' or a valid integer, not \"3\""),
            ],
        ),
        (
            {"training_file": "file-0", "model": {"type": "torch"}, "sed": 1, "tags": ["a", 1]},
            [
                ("model.architecture", "this field is required"),
                ("tags[1]", "input should be a valid string, not 1"),
                ("sed", "unknown field 'sed'; did you mean 'seed'?"),
            ],
        ),
    ],
)
def test_every_problem_is_listed_once(
    client: TestClient, body: dict[str, Any], problems: list[tuple[str, str]]
) -> None:
    """By the path in the body, without the names of a union's branches, whose complaints become one."""
    error = client.post("fine_tuning/jobs", json=body).json()["error"]
    assert [(problem["field"], problem["message"]) for problem in error["errors"]] == problems
    assert error["message"] == f"{problems[0][0]}: {problems[0][1]} (and {len(problems) - 1} more, see errors)"


def test_a_parameter_is_named_as_it_is_sent(client: TestClient) -> None:
    """A query parameter has a name and no path."""
    error = client.get("fine_tuning/jobs?limit=x").json()["error"]
    assert (error["param"], error["code"]) == ("limit", "invalid_value")
    assert error["message"].endswith(', not "x"')
