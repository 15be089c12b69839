"""/v1/uploads, with the official SDK and by hand."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from openai import OpenAI
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import now
from app.files.tables import File
from app.http.dependencies import Backends
from app.uploads.assembly import GRACE, remove_leftovers
from app.uploads.tables import Upload, UploadPart
from tests.app.conftest import AFFINE

CONTENT = b"".join(b'{"x":[1,2],"y":%d}\n' % at for at in range(3000))


def begin(api: TestClient, size: int = len(CONTENT), **more: Any) -> dict[str, Any]:
    wanted = {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": size, "mime_type": "application/jsonl"}
    answer = api.post("uploads", json=wanted | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def part(api: TestClient, upload: str, data: bytes) -> str:
    answer = api.post(f"uploads/{upload}/parts", files={"data": ("blob", io.BytesIO(data))})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def complete(api: TestClient, upload: str, part_ids: list[str], **more: Any) -> Any:
    return api.post(f"uploads/{upload}/complete", json={"part_ids": part_ids, **more})


def error(answer: Any) -> tuple[int, str, str | None]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


def parts_stored(application: FastAPI) -> list[str]:
    backends: Backends = application.state.backends
    assert backends.storage.root is not None
    return [str(path.name) for path in (backends.storage.root / "uploads").rglob("part-*")]


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


def test_parts_have_to_make_the_file(api: TestClient, application: FastAPI) -> None:
    """Missing, unknown, repeated, of a wrong size, with other bytes: refused by name, and the upload can go on."""
    upload = begin(api, 8)["id"]
    first, second = part(api, upload, b"abcd"), part(api, upload, b"efgh")
    assert error(complete(api, upload, [first])) == (400, "parts_do_not_add_up", "part_ids")
    assert error(complete(api, upload, [first, "part-none"])) == (400, "unknown_part", "part_ids[1]")
    assert error(complete(api, upload, [first, first])) == (400, "invalid_request", "part_ids[1]")
    assert error(complete(api, upload, [])) == (400, "invalid_value", "part_ids")
    wrong = hashlib.md5(b"abcdefgX").hexdigest()
    assert error(complete(api, upload, [first, second], md5=wrong)) == (400, "checksum_mismatch", "md5")
    assert error(complete(api, upload, [first, second], md5="12")) == (400, "invalid_value", "md5")

    storage = application.state.backends.storage
    assert list(storage.unfinished()) == []
    right = hashlib.md5(b"abcdefgh").hexdigest().upper()
    assert complete(api, upload, [first, second], md5=right).json()["status"] == "completed"


def test_bytes_that_are_gone_are_asked_for_again(api: TestClient, application: FastAPI) -> None:
    """As after a restored backup, which has rows of pending uploads and not their parts."""
    upload = begin(api, 4)["id"]
    lost = part(api, upload, b"abcd")
    application.state.backends.storage.remove_named(f"uploads/{upload}")
    answer = complete(api, upload, [lost])
    assert error(answer) == (400, "unknown_part", "part_ids") and "send this part again" in answer.text
    assert complete(api, upload, [part(api, upload, b"abcd")]).json()["status"] == "completed"


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


def test_maintenance_leaves_what_goes_on(api: TestClient, application: FastAPI) -> None:
    """Parts of a pending upload stay; rows of parts that went are gone too."""
    backends: Backends = application.state.backends
    going_on, left = begin(api, 4)["id"], begin(api, 4)["id"]
    kept, _ = part(api, going_on, b"abcd"), part(api, left, b"efgh")
    expire(application, left)
    for _ in range(2):
        remove_leftovers(backends.database, backends.storage)
    assert parts_stored(application) == [kept]
    with backends.database.read() as session:
        assert {row.upload_id for row in session.query(UploadPart)} == {going_on}


def test_sizes_are_bounded(api: TestClient, application: FastAPI) -> None:
    """The whole file, a part, what arrives for one file, and what a project may store."""
    settings = application.state.backends.settings
    wanted = {"filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "text/plain"}
    assert error(api.post("uploads", json=wanted | {"bytes": settings.max_upload_bytes + 1})) == (
        413, "file_too_large", "bytes",
    )  # fmt: skip
    assert error(api.post("uploads", json=wanted | {"bytes": 0})) == (400, "invalid_value", "bytes")
    upload = begin(api, 4)["id"]
    too_long = api.post(f"uploads/{upload}/parts", files={"data": ("blob", b"abcde")})
    assert error(too_long) == (400, "too_many_parts", "data")
    part(api, upload, b"abcd"), part(api, upload, b"abcd")
    assert error(api.post(f"uploads/{upload}/parts", files={"data": ("blob", b"a")})) == (400, "too_many_parts", "data")
    assert len(parts_stored(application)) == 2


def test_pending_uploads_count_for_the_quota(api: TestClient, application: FastAPI) -> None:
    """Else a project could store any number of parts."""
    settings = application.state.backends.settings
    settings.max_project_bytes = 100
    begin(api, 60)
    wanted = {"filename": "a.jsonl", "purpose": "fine-tune", "mime_type": "text/plain"}
    assert error(api.post("uploads", json=wanted | {"bytes": 41}))[:2] == (429, "insufficient_quota")
    begin(api, 40)


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


def expire(application: FastAPI, upload: str) -> None:
    """Lets an upload be past its time, by the database's clock, and past what maintenance waits for."""
    with application.state.backends.database.write() as session:
        past = now(session) - GRACE * 2
        session.execute(update(Upload).where(Upload.id == upload).values(expires_at=past))
