"""Downloads: one range of a file, the ETag, and the bytes of a blob."""

from pathlib import Path

import pytest
from starlette.requests import Request

from app.errors import NotFound
from app.http.downloads import RangeNotSatisfiable, blob_bytes, download
from app.storage.blobs import Storage

SHA256 = "0" * 64
ETAG = f'"sha256:{SHA256}"'


def get(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw})


@pytest.mark.parametrize(
    ("range_header", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=90-", 206, 90, 100),
        ("bytes=-10", 206, 90, 100),
        ("bytes=-1000", 200, 0, 100),
        ("bytes=95-1000", 206, 95, 100),
        ("bytes=0-9,20-29", 200, 0, 100),
        ("lines=1-2", 200, 0, 100),
        ("bytes=-", 200, 0, 100),
        ("", 200, 0, 100),
    ],
)
def test_one_range_is_served(range_header: str, status: int, start: int, stop: int) -> None:
    """And what RFC 9110 lets a server ignore gets the whole file."""
    response = download(
        get(range=range_header),
        size=100,
        sha256=SHA256,
        name="a b",
        read=lambda *_: iter(()),
    )
    assert (response.status_code, response.headers["content-length"]) == (status, str(stop - start))
    assert ("content-range" in response.headers) == (status == 206)
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b"


@pytest.mark.parametrize("range_header", ["bytes=100-", "bytes=5-4", "bytes=-0"])
def test_a_range_outside_of_the_file_is_refused(range_header: str) -> None:
    """416 with the size of the file."""
    with pytest.raises(RangeNotSatisfiable) as refused:
        download(get(range=range_header), size=100, sha256=SHA256, name="a", read=lambda *_: iter(()))
    assert refused.value.headers == {"content-range": "bytes */100"}


def test_the_etag_decides() -> None:
    """Known bytes are not sent again, and a range of other bytes than the caller has begins is not one."""
    options = {"size": 100, "sha256": SHA256, "name": "a", "read": lambda *_: iter(())}
    assert download(get(if_none_match=ETAG), **options).status_code == 304  # type: ignore[arg-type]
    assert download(get(range="bytes=0-9", if_range=ETAG), **options).status_code == 206  # type: ignore[arg-type]
    assert download(get(range="bytes=0-9", if_range='"other"'), **options).status_code == 200  # type: ignore[arg-type]


def test_the_bytes_of_a_blob(tmp_path: Path) -> None:
    """Exactly those of the range; a blob that is missing is an error before the response starts."""
    storage = Storage(f"file://{tmp_path}")
    with storage.writer() as writer:
        writer.write(bytes(range(100)))
    assert b"".join(blob_bytes(storage, writer.blob.key)(10, 20)) == bytes(range(10, 20))
    storage.delete(writer.blob.key)
    with pytest.raises(NotFound):
        blob_bytes(storage, writer.blob.key)
