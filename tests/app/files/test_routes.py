"""/v1/files, in process and with the official SDK."""

import hashlib
import io
import os
import time
from typing import Any

import pytest
from fastapi import FastAPI
from openai import ConflictError, NotFoundError, OpenAI
from starlette.testclient import TestClient

from app.http.dependencies import Backends
from tests.app.conftest import AFFINE, Upload, rows, upload_to


def test_the_sdk_uploads_reads_lists_and_deletes(openai: OpenAI) -> None:
    """Every call of the SDK's files resource, with strict and with lenient parsing."""
    content = b'{"x":[1,2],"y":3}\n'
    made = openai.files.create(file=("train.jsonl", content), purpose="fine-tune")
    assert (made.filename, made.bytes, made.purpose, made.status) == (
        "train.jsonl",
        len(content),
        "fine-tune",
        "processed",
    )
    assert openai.files.retrieve(made.id) == made
    assert openai.files.content(made.id).read() == content
    assert openai.files.wait_for_processing(made.id).id == made.id
    other = openai.files.create(file=b"raw bytes", purpose="user_data")
    assert [each.id for each in openai.files.list(limit=1)] == [other.id, made.id]
    assert [each.id for each in openai.files.list(order="asc")] == [made.id, other.id]
    assert [each.id for each in openai.files.list(purpose="fine-tune")] == [made.id]
    gone = openai.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(NotFoundError) as raised:
        openai.files.retrieve(made.id)
    assert raised.value.code == "not_found"
    assert raised.value.param == "file_id"
    assert raised.value.request_id


def test_an_upload_of_many_pieces_is_stored_whole_and_once(api: TestClient, application: FastAPI) -> None:
    """5 MB arrive in one pass; two files with the same bytes share a blob, which goes an hour after both."""
    backends: Backends = application.state.backends
    content = bytes(range(256)) * 20_000
    upload = upload_to(api)
    first, second = upload(content, name="a.bin"), upload(content, name="b.bin")
    answer = api.get(f"files/{first}").json()
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    assert api.get(f"files/{second}/content").content == content
    blob = f"sha256/{answer['sha256'][:2]}/{answer['sha256']}"
    api.delete(f"files/{first}")
    assert backends.storage.exists(blob)
    api.delete(f"files/{second}")
    assert backends.storage.exists(blob) and list(backends.storage.deletions_due()) == []
    hour_ago = time.time() - 3601
    for mark in ("again", "unused"):
        assert backends.storage.root is not None
        os.utime(backends.storage.root / mark / blob, (hour_ago, hour_ago))
    assert list(backends.storage.deletions_due()) == [blob]


@pytest.mark.parametrize(
    ("header", "status", "expected", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=" + "9" * 5000 + "-", 200, b"0123456789", None),
    ],
)
def test_a_download_understands_one_range(
    client: TestClient, upload: Upload, header: str, status: int, expected: bytes, content_range: str | None
) -> None:
    """RFC 9110: one byte range is served, anything else gets the whole file."""
    file = upload(b"0123456789", name="digits.txt")
    answer = client.get(f"files/{file}/content", headers={"range": header})
    assert (answer.status_code, answer.content) == (status, expected)
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers.get("content-range") == content_range


def test_a_range_outside_of_the_file_is_416(client: TestClient, upload: Upload) -> None:
    """With the true size in Content-Range, so that the client can ask again."""
    file = upload(b"0123456789", name="digits.txt")
    answer = client.get(f"files/{file}/content", headers={"range": "bytes=10-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


def test_a_download_that_the_client_has_is_304(client: TestClient, upload: Upload) -> None:
    """The ETag is the digest of the bytes."""
    file = upload(b"0123456789", name="digits.txt")
    tag = client.get(f"files/{file}/content").headers["etag"]
    assert client.get(f"files/{file}/content", headers={"if-none-match": tag}).status_code == 304


BAD_FORMS = {
    "no purpose": ({}, {"file": ("a.jsonl", b"{}")}, "purpose", "missing_field"),
    "unknown purpose": ({"purpose": "fun"}, {"file": ("a.jsonl", b"{}")}, "purpose", "invalid_value"),
    "no file": ({"purpose": "fine-tune"}, {"other": ("a.jsonl", b"{}")}, "file", "missing_field"),
    "empty file": ({"purpose": "fine-tune"}, {"file": ("a.jsonl", b"")}, "file", "empty_file"),
    "unknown field": ({"purpose": "fine-tune", "tag": "x"}, {"file": ("a.jsonl", b"{}")}, "tag", "unknown_field"),
    "odd lifetime": (
        {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
        {"file": ("a.jsonl", b"{}")},
        "expires_after.seconds",
        "invalid_value",
    ),
    "odd anchor": (
        {"purpose": "fine-tune", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        {"file": ("a.jsonl", b"{}")},
        "expires_after.anchor",
        "invalid_value",
    ),
}


@pytest.mark.parametrize("case", BAD_FORMS)
def test_a_bad_form_is_refused_by_field(client: TestClient, case: str) -> None:
    """400 with the name of the field, and nothing stored."""
    fields, files, param, code = BAD_FORMS[case]
    answer = client.post("files", data=fields, files=files)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert client.get("files").json()["data"] == []


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type"),
        ("multipart/form-data", b"", 400, "invalid_multipart"),
        ("multipart/form-data; boundary=b", b"not a form", 400, "invalid_multipart"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"',
            400,
            "invalid_multipart",
        ),
    ],
)
def test_a_body_that_is_no_form_is_refused(
    client: TestClient, content_type: str, body: bytes, status: int, code: str
) -> None:
    """Another type is 415; a torn form is 400."""
    answer = client.post("files", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_file_over_the_cap_is_413_and_leaves_nothing(embedded: FastAPI) -> None:
    """The cap counts the file's bytes, not the form's; the half-written blob is gone."""
    backends: Backends = embedded.state.backends
    backends.settings.max_upload_bytes = 1000
    with TestClient(embedded, base_url="http://testserver/v1/") as client:
        upload_to(client)(b"x" * 1000, name="fits.txt")
        before = sorted(backends.settings.home.rglob("*"))
        form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.txt", io.BytesIO(b"x" * 1001))}}
        answer = client.post("files", **form)
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
        assert sorted(backends.settings.home.rglob("*")) == before


def test_a_client_that_goes_away_leaves_nothing(embedded: FastAPI, client: TestClient) -> None:
    """A body that ends before its closing boundary publishes no blob."""
    backends: Backends = embedded.state.backends
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 100_000
    client.post("files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert [path for path in (backends.settings.home / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\..\\boot.ini", "a/b/c.jsonl", "\x00nul.jsonl", "r\u00e9sum\u00e9.jsonl"]
)
def test_a_name_never_becomes_a_path(client: TestClient, upload: Upload, name: str) -> None:
    """Only the last part of a name is kept, for showing; the blob's name is its digest."""
    shown = client.get(f"files/{upload(b'x', name=name)}").json()["filename"]
    assert "/" not in shown
    assert "\\" not in shown
    assert shown.isprintable()


def test_a_file_that_a_waiting_job_needs_stays(openai: OpenAI) -> None:
    """409 that names the job, with the header that keeps the SDK from trying again; free once the job has ended."""
    content = "\n".join(f'{{"x":[1,{n}],"y":1}}' for n in range(4)).encode()
    file = openai.files.create(file=("a.jsonl", content), purpose="fine-tune").id
    job = openai.fine_tuning.jobs.create(model="-", training_file=file, extra_body={"model": AFFINE})
    with pytest.raises(ConflictError) as raised:
        openai.files.delete(file)
    assert raised.value.code == "file_in_use"
    assert [each["message"] for each in raised.value.body["errors"]] == [job.id]
    assert job.id in str(raised.value)
    assert raised.value.response.headers["x-should-retry"] == "false"
    openai.fine_tuning.jobs.cancel(job.id)
    assert openai.files.delete(file).deleted


def test_an_upload_that_the_sdk_repeats_is_one_file(client: TestClient) -> None:
    """The retry header and equal content, name and purpose: the file that the first try made."""
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.txt", b"same")}}
    first = client.post("files", **form).json()["id"]
    assert client.post("files", **form, headers={"x-stainless-retry-count": "1"}).json()["id"] == first
    assert client.post("files", **form).json()["id"] != first


def test_an_expired_file_is_gone(client: TestClient, embedded: FastAPI) -> None:
    """It is in no list, cannot be read, and no job can be made of it."""
    from datetime import UTC, datetime

    from app.files.tables import File

    form = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    body = "\n".join(map(str, rows())).encode()
    file = client.post("files", data=form, files={"file": ("a.jsonl", body)}).json()
    assert file["expires_at"] == file["created_at"] + 3600
    with embedded.state.backends.database.write() as session:
        session.get_one(File, file["id"]).expires_at = datetime.now(UTC)
    assert client.get(f"files/{file['id']}").status_code == 404
    assert client.get("files").json()["data"] == []
    answer = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file["id"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "training_file")


def test_an_unknown_cursor_is_refused(client: TestClient) -> None:
    """400 that names `after`, instead of an empty page."""
    answer = client.get("files", params={"after": "file-none"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_a_list_may_be_emptied_while_it_is_read(openai: OpenAI) -> None:
    """Every file is deleted as it comes: the cursor of each next page is gone by then, and no file is left out."""
    made = {openai.files.create(file=(f"{n}.jsonl", b"x"), purpose="fine-tune").id for n in range(5)}
    read = []
    for file in openai.files.list(limit=2):
        read.append(file.id)
        openai.files.delete(file.id)
    assert set(read) == made
    assert list(openai.files.list()) == []


def test_a_cursor_need_not_be_in_the_filter(client: TestClient, upload: Upload) -> None:
    """As with jobs: `after` names a place. Another project's is none, nor is one that never was."""
    first = upload(b"1", purpose="user_data")
    other = upload(b"2", purpose="fine-tune")
    found = client.get("files", params={"purpose": "user_data", "after": other}).json()
    assert [each["id"] for each in found["data"]] == [first]
    client.delete(f"files/{other}")
    found = client.get("files", params={"purpose": "user_data", "after": other}).json()
    assert [each["id"] for each in found["data"]] == [first]
    assert client.get("files?after=file-none").json()["error"]["code"] == "invalid_cursor"
