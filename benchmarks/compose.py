"""Downloading a composed model, frozen tensors from the base and the rest from the result, beside one plain file.

Also over HTTP, each way from the same service.
"""

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from app.evidence.format.compose import ComposedFile, Slice, compose
from app.evidence.format.digest import read_file, sha256_file
from app.http.downloads import blob_bytes, download
from app.storage.blobs import CHUNK, Storage
from benchmarks.figure import Figure
from benchmarks.stand_in import best, folder, write_model

MEGABYTES, CHANGED_MEGABYTES = 512, 64
RUNS = 5


def figures() -> Iterable[Figure]:
    with folder() as place:
        storage, layout, plain = composed(place)
        size = layout.size / 1e9
        ours, theirs = size / best(lambda: drain(storage, layout), RUNS), size / best(lambda: read(plain), RUNS)
        yield Figure("composed model, streamed", ours, "GB/s", f"{theirs:.2f} by reading one plain file")
        yield Figure("composed, of the plain file's rate", ours / theirs, "x")
        start, stop = layout.size // 2, layout.size // 2 + (1 << 20)
        middle = best(lambda: list(layout.stream(storage.open, start, stop)), RUNS) * 1e3
        yield Figure("1 MB from its middle", middle, "ms", f"{best(lambda: piece(plain, start), RUNS) * 1e3:.3f} plain")
        yield Figure("its layout from rows", best(lambda: compose(layout.slices), RUNS) * 1e3, "ms")
        yield from over_http(storage, layout, plain)


def composed(place: Path) -> tuple[Storage, ComposedFile, Path]:
    """A base and a result's changed tensors as blobs; and what they make up, written out."""
    storage = Storage(f"file://{place}/blobs")
    write_model(place / "base.safetensors", megabytes=MEGABYTES)
    write_model(place / "changed.safetensors", megabytes=CHANGED_MEGABYTES)
    base, changed = (storage.put(place / f"{name}.safetensors") for name in ("base", "changed"))
    slices = {}
    for blob, name in ((base, "base"), (changed, "changed")):
        for each in read_file(place / f"{name}.safetensors").tensors:
            slices[each.name] = Slice(
                each.name, each.dtype, each.shape, blob.key, each.offset, each.nbytes, each.sha256
            )
    layout = compose(slices.values(), {"format": "pt"})
    plain = place / "plain.safetensors"
    with plain.open("wb") as file:
        for chunk in layout.stream(storage.open):
            file.write(chunk)
    assert layout.sha256(storage.open) == sha256_file(plain)
    return storage, layout, plain


def drain(storage: Storage, layout: ComposedFile) -> None:
    for _ in layout.stream(storage.open):
        pass


def read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(CHUNK):
            pass


def piece(path: Path, start: int) -> None:
    with path.open("rb") as file:
        file.seek(start)
        file.read(1 << 20)


def over_http(storage: Storage, layout: ComposedFile, plain: Path) -> Iterable[Figure]:
    """The same model as the service sends it, beside the same bytes as an uploaded file, both over loopback."""
    with serving(storage, layout, plain) as url:
        ours, theirs = (layout.size / 1e9 / best(partial(fetch, f"{url}/{name}"), 3) for name in ("composed", "plain"))
    yield Figure("composed model over HTTP", ours, "GB/s", f"{theirs:.2f}: the same bytes as one blob")


def fetch(url: str) -> None:
    with httpx2.stream("GET", url, timeout=120) as answer:
        for _ in answer.iter_raw():
            pass


@contextmanager
def serving(storage: Storage, layout: ComposedFile, plain: Path) -> Iterator[str]:
    """An application of two routes over the product's own way of sending bytes, behind uvicorn; its URL."""
    blob = storage.put(plain)
    application = FastAPI()

    @application.get("/composed")
    def composed_model(request: Request) -> Response:
        def stream(start: int, stop: int) -> Iterator[bytes]:
            return layout.stream(storage.open, start, stop)

        return download(request, size=layout.size, sha256=blob.sha256, name="model.safetensors", read=stream)

    @application.get("/plain")
    def plain_file(request: Request) -> Response:
        read_blob = blob_bytes(storage, blob.key)
        return download(request, size=blob.size, sha256=blob.sha256, name="model.safetensors", read=read_blob)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application, log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
