"""The files of a request are read and checked before a job is stored."""

from typing import Any

import pytest
from fastapi import FastAPI
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


@pytest.mark.parametrize("target", [0.5, "a"])
def test_a_table_is_for_no_model_of_transformers(
    client: TestClient, embedded: FastAPI, upload: Upload, target: Any
) -> None:
    """Also where the task is found from the file: such a job failed in the worker."""
    folder = embedded.state.backends.settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    file = upload([{"x": [n, 2.0], "y": target} for n in range(4)])
    for model in ("tiny", {"type": "transformers", "path": "tiny"}, {"type": "transformers", "path": "a/b"}):
        answer = client.post("fine_tuning/jobs", json={"model": model, "training_file": file})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("training_file", "invalid_training_data")
        assert '"type": "torch"' in error["message"]


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


@pytest.mark.parametrize(
    "url", ["hf://acme/data@v1?split=train", "s3://data/train.csv", "https://example.org/train.jsonl?signature=canary"]
)
def test_file_by_reference_is_a_file_that_a_worker_fetches(client: TestClient, url: str) -> None:
    """The job names it by an id like any other; its bytes and digest come later, and what signs its address is kept."""
    job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": url}).json()
    assert (job["status"], job["training_file"][:5]) == ("validating_files", "file-"), job
    file = client.get(f"files/{job['training_file']}").json()
    assert (file["status"], file["bytes"], file["sha256"]) == ("uploaded", 0, None)
    assert file["source"] == url.replace("signature=canary", "…") and "canary" not in str(file)
    assert client.get("audit_logs").json()["data"][0]["object_id"] == job["id"]
    early = client.get(f"files/{file['id']}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "file_not_fetched")
    again = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file["id"]}).json()
    assert (again["status"], again["training_file"]) == ("validating_files", file["id"])
    assert client.delete(f"files/{file['id']}").json()["error"]["code"] == "file_in_use"
    for each in (job, again):
        client.post(f"fine_tuning/jobs/{each['id']}/cancel")
    assert client.delete(f"files/{file['id']}").status_code == 200


def test_jobs_of_a_sweep_share_a_file_by_reference(client: TestClient) -> None:
    """All are compared on the same bytes, also where the source changes between two of them."""
    sweep = {"job": {"model": AFFINE, "training_file": "s3://data/train.csv"}, "grid": {"seed": [1, 2]}}
    made = client.post("fine_tuning/sweeps", json=sweep).json()
    files = client.get("files").json()["data"]
    assert [made["training_file"]] == [file["id"] for file in files]
    assert client.get("audit_logs").json()["data"][0]["object_id"] == made["id"]
    jobs = client.get("fine_tuning/jobs").json()["data"]
    assert {job["training_file"] for job in jobs} == {files[0]["id"]} and len(jobs) == 2


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"training_file": "https://169.254.169.254/latest"}, "training_file", "invalid_reference"),
        ({"training_file": "ftp://example.org/a.csv"}, "training_file", "invalid_reference"),
        ({"training_file": "s3://data/a.csv", "validation_file": "s3://data"}, "validation_file", "invalid_reference"),
        ({"training_file": "s3://data/a.csv", "model": "small"}, "task", "missing_field"),
    ],
)
def test_references_that_are_refused(client: TestClient, body: dict[str, Any], param: str, code: str) -> None:
    """Before anything is stored or asked of anybody."""
    refused = client.post("fine_tuning/jobs", json={"model": AFFINE} | body)
    assert refused.status_code == 400, refused.text
    assert (refused.json()["error"]["param"], refused.json()["error"]["code"]) == (param, code)
    assert client.get("files").json()["data"] == []


def test_a_dry_run_says_what_is_left_to_the_worker(client: TestClient) -> None:
    """And stores nothing."""
    body = {"model": AFFINE, "training_file": "s3://data/a.csv", "validation_file": "s3://data/b.csv", "dry_run": True}
    answer = client.post("fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    left = {each["what"] for each in answer.json()["unchecked"] if "fetched" in each["why"]}
    assert left == {"training_file", "validation_file"}
    assert client.get("files").json()["data"] == []
