"""/v1/uploads, with the official SDK and by hand."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openai import OpenAI
from starlette.testclient import TestClient

from app.files.tables import File
from app.http.dependencies import Backends
from app.uploads.assembly import remove_leftovers
from tests.app.conftest import AFFINE
from tests.app.uploads.by_hand import CONTENT, begin, complete, error, expire, part, parts_stored


def test_the_sdk_sends_a_file_in_parts(openai: OpenAI, tmp_path: Path) -> None:
    """Its helper splits, sends and completes; the file is as if it had come in one piece, and a job takes it."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(CONTENT)
    digest = hashlib.md5(CONTENT).hexdigest()
    upload = openai.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=10_000, md5=digest
    )
    assert (upload.status, upload.bytes, upload.filename) == ("completed", len(CONTENT), "train.jsonl")
    assert upload.file is not None and upload.file.bytes == len(CONTENT)
    assert openai.files.content(upload.file.id).read() == CONTENT
    job = openai.fine_tuning.jobs.create(
        model="affine",
        training_file=upload.file.id,
        extra_body={"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}},
    )
    assert job.training_file == upload.file.id


def test_the_sdk_sends_bytes_and_gives_up(openai: OpenAI) -> None:
    """The calls that the helper is made of."""
    upload = openai.uploads.create(bytes=4, filename="a.jsonl", mime_type="application/jsonl", purpose="fine-tune")
    assert (upload.status, upload.object) == ("pending", "upload")
    made = openai.uploads.parts.create(upload.id, data=b"abcd")
    assert (made.upload_id, made.object) == (upload.id, "upload.part")
    assert openai.uploads.cancel(upload.id).status == "cancelled"


def test_the_order_is_that_of_the_request(api: TestClient, application: FastAPI) -> None:
    """Parts arrive in any order, one of them twice; those that are named make the file, and all of them go."""
    upload = begin(api)["id"]
    middle = len(CONTENT) // 2
    second, first = part(api, upload, CONTENT[middle:]), part(api, upload, CONTENT[:middle])
    again = part(api, upload, CONTENT[:middle])

    waiting = api.get(f"uploads/{upload}").json()
    assert [each["id"] for each in waiting["parts"]] == [second, first, again]
    assert waiting["parts"][1]["sha256"] == hashlib.sha256(CONTENT[:middle]).hexdigest()
    assert len(parts_stored(application)) == 3

    done = complete(api, upload, [first, second]).json()
    assert (done["status"], done["parts"]) == ("completed", [])
    assert done["file"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert api.get(f"files/{done['file']['id']}/content").content == CONTENT
    assert parts_stored(application) == []


def test_completing_twice_makes_one_file(api: TestClient) -> None:
    """A client that did not get the answer asks again."""
    upload = begin(api, 4)["id"]
    only = part(api, upload, b"abcd")
    first, second = complete(api, upload, [only]).json(), complete(api, upload, [only]).json()
    assert first["file"]["id"] == second["file"]["id"]
    assert len(api.get("files").json()["data"]) == 1

    api.delete(f"files/{first['file']['id']}")
    assert api.get(f"uploads/{upload}").json()["file"] is None


@pytest.mark.parametrize("ending", ["cancelled", "completed", "expired"])
def test_nothing_is_added_to_an_upload_that_ended(api: TestClient, application: FastAPI, ending: str) -> None:
    """Whatever ended it, the answer is 409 and nothing stays in the storage."""
    upload = begin(api, 4)["id"]
    first = part(api, upload, b"abcd")
    if ending == "cancelled":
        assert api.post(f"uploads/{upload}/cancel").json()["status"] == "cancelled"
        assert api.post(f"uploads/{upload}/cancel").json()["status"] == "cancelled"
    elif ending == "completed":
        complete(api, upload, [first])
        assert error(api.post(f"uploads/{upload}/cancel")) == (409, "upload_ended", "upload_id")
    else:
        expire(application, upload)
    assert api.get(f"uploads/{upload}").json()["status"] == ending

    late = api.post(f"uploads/{upload}/parts", files={"data": ("blob", b"efgh")})
    assert error(late) == (409, "upload_ended", "upload_id")
    if ending != "completed":
        assert error(complete(api, upload, [first])) == (409, "upload_ended", "upload_id")
    backends: Backends = application.state.backends
    remove_leftovers(backends.database, backends.storage)
    assert parts_stored(application) == [] and list(backends.storage.unfinished()) == []


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"files": {"file": ("blob", b"abcd")}}, (400, "missing_field", "data")),
        ({"files": {"data": ("blob", b"")}}, (400, "empty_file", "data")),
        ({"files": {"data": ("blob", b"abcd")}, "data": {"purpose": "x"}}, (400, "unknown_field", "purpose")),
        ({"json": {"data": "abcd"}}, (415, "unsupported_media_type", None)),
    ],
    ids=["another name", "empty", "another field", "JSON"],
)
def test_a_form_that_is_no_part(api: TestClient, application: FastAPI, form: Any, expected: Any) -> None:
    """Refused with what is wrong; the storage has nothing of it."""
    upload = begin(api, 4)["id"]
    answer = api.post(f"uploads/{upload}/parts", **form)
    assert error(answer) == expected
    assert parts_stored(application) == []


def test_a_file_that_expires(api: TestClient, application: FastAPI) -> None:
    """`expires_after` is the file's, from its own creation."""
    upload = begin(api, 4, expires_after={"anchor": "created_at", "seconds": 3600})["id"]
    file = complete(api, upload, [part(api, upload, b"abcd")]).json()["file"]
    assert file["expires_at"] - file["created_at"] == 3600
    with application.state.backends.database.read() as session:
        assert session.get_one(File, file["id"]).expires_at is not None
