"""Parts become one blob, and those that nobody needs any more go."""

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.http.dependencies import Backends
from app.uploads.assembly import remove_leftovers
from app.uploads.tables import UploadPart
from tests.app.uploads.by_hand import begin, complete, error, expire, part, parts_stored


def test_bytes_that_are_gone_are_asked_for_again(api: TestClient, application: FastAPI) -> None:
    """As after a restored backup, which has rows of pending uploads and not their parts."""
    upload = begin(api, 4)["id"]
    lost = part(api, upload, b"abcd")
    application.state.backends.storage.remove_named(f"uploads/{upload}")
    answer = complete(api, upload, [lost])
    assert error(answer) == (400, "unknown_part", "part_ids") and "send this part again" in answer.text
    assert complete(api, upload, [part(api, upload, b"abcd")]).json()["status"] == "completed"


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


def test_a_part_that_was_cut_off_is_asked_for_again(api: TestClient, application: FastAPI) -> None:
    """Parts are not flushed to the disk: after a power cut the end of one may be missing."""
    upload = begin(api, 4)["id"]
    lost = part(api, upload, b"abcd")
    storage = application.state.backends.storage
    (storage.root / "uploads" / upload / lost).write_bytes(b"ab")
    assert error(complete(api, upload, [lost])) == (400, "unknown_part", "part_ids")
    assert list(storage.unfinished()) == []
