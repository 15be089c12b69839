"""A stand-in for a model hub on loopback: what `huggingface_hub` asks of one when it fetches a snapshot."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """`files` of the one repository `name`, at COMMIT, which `main` is; `asked` are the paths that were asked for."""

    name: str
    files: dict[str, bytes]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    gated: bool = False

    def info(self) -> dict[str, object]:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
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


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            return

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            hub.tokens.append(self.headers.get("authorization"))
            api = f"/api/models/{hub.name}"
            if not path.startswith((f"{api}/", f"/{hub.name}/")) and path != api:
                self._refuse(404, "RepoNotFound")
            elif hub.gated:
                self._refuse(403, "GatedRepo")
            elif path in (api, *(f"{api}/revision/{each}" for each in ("main", COMMIT))):
                self._send(json.dumps(hub.info()).encode(), "application/json")
            elif path == f"{api}/tree/{COMMIT}":
                self._send(json.dumps(hub.tree()).encode(), "application/json")
            elif path.startswith(f"/{hub.name}/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/{hub.name}/resolve/{COMMIT}/")
                self._send(hub.files[name]) if name in hub.files else self._refuse(404, "EntryNotFound")
            else:
                self._refuse(404, "RevisionNotFound")

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
