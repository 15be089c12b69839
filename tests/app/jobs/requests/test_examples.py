"""The files of a request are read and checked before a job is stored."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.conftest import AFFINE, Upload, rows

BAD_FILES: dict[str, tuple[str, bytes, dict[str, Any], int | None, str | None]] = {
    "text in a numeric column": ("a.csv", b"a,b,y\n1,2,3\n1,x,3\n4,5,6\n", {}, 3, "b"),
    "NaN in a numeric column": ("a.csv", b"a,b,y\n1,2,3\n1,2,nan\n4,5,6\n", {}, 3, "y"),
    "no such column": ("a.csv", b"a,b,y\n1,2,3\n4,5,6\n", {"target": "price"}, 1, "price"),
    "not JSON": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1,2],\n{"x":[1,2],"y":1}\n', {}, 2, None),
    "another width": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1],"y":1}\n', {}, 2, "x"),
    "missing field": ("a.jsonl", b'{"x":[1,2],"y":1}\n{"x":[1,2]}\n', {}, 2, "y"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_refused_by_line_and_field(client: TestClient, upload: Upload, case: str) -> None:
    """Small files are read to their end at POST; `errors` says which line and which field."""
    name, content, data, line, field = BAD_FILES[case]
    body: dict[str, Any] = {"model": AFFINE, "training_file": upload(content, name=name), "data": data or None}
    answer = client.post("fine_tuning/jobs", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("training_file", "invalid_training_data")
    assert [(each["line"], each["field"]) for each in error["errors"]] == [(line, field)]


def test_a_label_seen_once_is_refused(client: TestClient, upload: Upload) -> None:
    """A class that no held-out example can have is a mistake in the data."""
    content = b"a,b,y\n1,2,cat\n3,4,cat\n5,6,dog\n"
    model = {**AFFINE, "task": "classification"}
    answer = client.post("fine_tuning/jobs", json={"model": model, "training_file": upload(content, name="a.csv")})
    (error,) = answer.json()["error"]["errors"]
    assert (answer.status_code, error["code"], error["line"]) == (400, "label_seen_once", 4)


def test_a_file_for_another_purpose_is_refused(client: TestClient, upload: Upload) -> None:
    """Training data says that it is training data."""
    file = upload(rows(), purpose="user_data")
    answer = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_purpose")


def test_a_file_that_takes_too_long_is_left_to_the_worker(
    client: TestClient, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file may have millions of rows: the request is answered, and the job checks the rest."""
    content = b'{"x":[1,2],"y":1}\n' * 3 + b'{"x":[1],"y":1}\n'
    body = {"model": AFFINE, "training_file": upload(content)}
    assert client.post("fine_tuning/jobs", json=body).status_code == 400
    monkeypatch.setattr("app.jobs.requests.examples._INLINE_SECONDS", -1.0)
    assert client.post("fine_tuning/jobs", json=body).status_code == 200
