"""Download responses: streamed in chunks with Content-Length, at most one `Range`, and the digest as ETag."""

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from app.errors import NotFound, PermafrostError
from app.http.headers import etag_matches
from app.storage.blobs import CHUNK, Storage

#: Yields the bytes from `start` up to `stop` (exclusive).
Reader = Callable[[int, int], Iterator[bytes]]

#: A longer number is not a position in any file.
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def download(
    request: Request, *, size: int, sha256: str, name: str, read: Reader, media_type: str = "application/octet-stream"
) -> Response:
    """The whole file, or the requested range of it."""
    headers = {
        "etag": f'"sha256:{sha256}"',
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "x-content-type-options": "nosniff",
    }
    if etag_matches(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    start, stop = _range(request, size=size, etag=headers["etag"])
    headers["content-length"] = str(stop - start)
    if (start, stop) != (0, size):
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        return StreamingResponse(read(start, stop), 206, headers, media_type)
    return StreamingResponse(read(0, size), 200, headers, media_type)


def blob_bytes(storage: Storage, key: str) -> Reader:
    """Reads a stored blob. A missing blob raises here, and not in the middle of the response."""
    if not storage.exists(key):
        raise NotFound(f"blob {key} is not in the storage; `permafrost doctor` lists what is missing")

    def read(start: int, stop: int) -> Iterator[bytes]:
        with storage.open(key) as file:
            file.seek(start)
            left = stop - start
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    return read


def _range(request: Request, *, size: int, etag: str) -> tuple[int, int]:
    header = request.headers.get("range", "")
    if not header or request.headers.get("if-range", etag) != etag:
        return 0, size
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return 0, size  # several ranges, or another unit: RFC 9110 lets a server send the whole file
    first, last = match.groups()
    if first == "":
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(
            f"the range {header!r} is outside of the file's {size:,} bytes",
            headers={"content-range": f"bytes */{size}"},
        )
    return start, stop


class RangeNotSatisfiable(PermafrostError):
    """A range that begins after the end of the file."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"
