"""Uploads a large file in parts; after a cut it goes on with those that have not arrived."""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx2
import typer

from app.cli.service import ask, away, checked
from app.jsontypes import JsonDict

#: Bytes of a part, and from how many a file is sent in parts.
PART: Final = 64 << 20
IN_PARTS_FROM: Final = 4 * PART
#: Parts that are under way at the same time: one is read and sent while the service hashes and writes another.
AT_ONCE: Final = 2
#: Seconds to wait before a part is sent again, after a connection or a service that failed.
PAUSES: Final = (1.0, 5.0, 20.0)


def upload_in_parts(client: httpx2.Client, path: Path, *, purpose: str, upload_id: str | None = None) -> JsonDict:
    """Upload a file and return it as the API describes it. With `upload_id`, go on with an upload that was cut off."""
    upload = ask(client, "GET", f"uploads/{upload_id}") if upload_id else _begin(client, path, purpose)
    file: JsonDict | None = upload["file"]
    if upload["status"] == "completed" and file:
        return file
    if upload["bytes"] != path.stat().st_size:
        raise SystemExit(
            f"{path} has {path.stat().st_size:,} bytes, and {upload['id']} was begun for {upload['bytes']:,}"
        )

    arrived = {(part["sha256"], part["bytes"]): part["id"] for part in upload["parts"]}
    try:
        part_ids = _send_all(client, upload["id"], _parts(path), arrived)
    except (SystemExit, KeyboardInterrupt):
        typer.echo(f"to go on from here: permafrost files put {path} --upload {upload['id']}", err=True)
        raise
    # Joining the parts takes as long as reading and writing them.
    done = ask(client, "POST", f"uploads/{upload['id']}/complete", json={"part_ids": part_ids}, timeout=3600)
    return done["file"]  # type: ignore[no-any-return]


def _send_all(
    client: httpx2.Client, upload_id: str, parts: Iterable[bytes], arrived: dict[tuple[str, int], str]
) -> list[str]:
    """Send the parts that have not arrived. Returns the ids of all, in their order; raises as the first that failed."""
    sent: list[str | Future[str]] = []
    under_way: deque[Future[str]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for data in parts:
            if part_id := _arrived(arrived, data):
                sent.append(part_id)
                continue
            if len(under_way) == AT_ONCE:  # so many lie in memory, and nothing more is sent after a failure
                under_way.popleft().result()
            under_way.append(threads.submit(_send, client, upload_id, data))
            sent.append(under_way[-1])
        return [each if isinstance(each, str) else each.result() for each in sent]


def _begin(client: httpx2.Client, path: Path, purpose: str) -> JsonDict:
    wanted = {"filename": path.name, "purpose": purpose, "bytes": path.stat().st_size}
    return ask(client, "POST", "uploads", json=wanted | {"mime_type": "application/octet-stream"})


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(PART):
            yield data


def _arrived(arrived: dict[tuple[str, int], str], data: bytes) -> str | None:
    """The id of a part that has these bytes, if there is one; it is taken out, since a file names each part once."""
    return arrived.pop((hashlib.sha256(data).hexdigest(), len(data)), None) if arrived else None


def _send(client: httpx2.Client, upload_id: str, data: bytes) -> str:
    """Send a part, again where the connection or the service fails. Returns its id."""
    for pause in (*PAUSES, None):
        try:
            answer = client.post(f"uploads/{upload_id}/parts", files={"data": ("part", data)}, timeout=600)
            if answer.status_code < 500 or pause is None:
                return str(checked(answer)["id"])
        except httpx2.TransportError as error:
            if pause is None:
                raise away(client, error) from None
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")
