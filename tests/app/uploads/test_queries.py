"""What an upload takes: sizes, quotas, and parts that make the file."""

import hashlib

from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.app.uploads.by_hand import begin, complete, error, part, parts_stored


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
