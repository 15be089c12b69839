"""A stand-in for a model hub on loopback: what `huggingface_hub` asks of one when it fetches a snapshot."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.listening import QuietHandler, listening

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """`files` of the one repository `name`, at COMMIT, which `main` is; `asked` are the paths that were asked for."""

    name: str
    files: dict[str, bytes]
    url: str = ""
    kind: str = "models"  # or "datasets"
    asked: list[str] = field(default_factory=list)
    ranges: list[tuple[str, int]] = field(default_factory=list)  # files that were sent, and from which byte
    tokens: list[str | None] = field(default_factory=list)
    gated: bool = False  # files need a token
    private: bool = False  # not even the repository is there without one
    token: str | None = None  # the only one that the hub knows, and that opens the repository
    wrong_bytes: set[str] = field(default_factory=set)  # files of which it sends others than it announces
    cut: list[int] = field(default_factory=list)  # after how many bytes each of the next downloads of a large file ends
    large: int = 1_000_000  # from how many bytes on a file is one
    slow: float = 0.0  # seconds before every answer

    def info(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            | ({"lfs": _lfs(data)} if name.endswith((".safetensors", ".parquet")) else {})
            for name, data in self.files.items()
        ]
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]


def _lfs(data: bytes) -> dict[str, object]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    with listening(_handler(hub)) as hub.url:
        yield hub


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            time.sleep(hub.slow)
            hub.tokens.append(self.headers.get("authorization"))
            shown = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            if path == "/api/whoami-v2":
                known = shown == hub.token
                self._send(b'{"name": "acme"}', "application/json") if known else self._refuse(401, "")
                return
            api = f"/api/{hub.kind}/{hub.name}"
            place = f"/{hub.name}" if hub.kind == "models" else f"/datasets/{hub.name}"
            if not path.startswith((f"{api}/", f"{place}/")) and path != api:
                self._refuse(404, "RepoNotFound")
            elif hub.private and shown != hub.token:
                self._refuse(401, "RepoNotFound")
            elif hub.gated and shown != hub.token:
                self._refuse(403, "GatedRepo")
            elif path in (api, *(f"{api}/revision/{each}" for each in ("main", COMMIT))):
                self._send(json.dumps(hub.info()).encode(), "application/json")
            elif path == f"{api}/tree/{COMMIT}":
                self._send(json.dumps(hub.tree()).encode(), "application/json")
            elif path.startswith(f"{place}/resolve/{COMMIT}/"):
                name = path.removeprefix(f"{place}/resolve/{COMMIT}/")
                self._send_file(name) if name in hub.files else self._refuse(404, "EntryNotFound")
            else:
                self._refuse(404, "RevisionNotFound")

        def _send_file(self, name: str) -> None:
            data = hub.files[name]
            if name in hub.wrong_bytes:
                data = bytes(len(data))
            since = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            hub.ranges.append((name, since))
            self.send_response(206 if since else 200)
            self.send_header("content-type", "application/octet-stream")
            self.send_header("content-length", str(len(data) - since))
            if since:
                self.send_header("content-range", f"bytes {since}-{len(data) - 1}/{len(data)}")
            self.send_header("etag", f'"{hashlib.sha1(hub.files[name]).hexdigest()}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                end = since + hub.cut.pop(0) if hub.cut and len(data) > hub.large else len(data)
                self.wfile.write(data[since:end])
                self.close_connection = True

        def _send(self, data: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.send_header("etag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("x-error-code", code)
            self.send_header("content-length", "0")
            self.end_headers()

    return Handler
