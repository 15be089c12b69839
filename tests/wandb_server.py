"""A stand-in for a Weights & Biases server on loopback: what its own client and `wandb sync` ask of one for a run."""

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StoredRun:
    """A run as the server has it: lines by number, so that what is sent twice is there once."""

    shown: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def curves(self) -> list[dict[str, Any]]:
        """The history without the times that its client adds."""
        times = ("_timestamp", "_runtime", "_wandb")
        lines = (self.history[number] for number in sorted(self.history))
        return [{name: value for name, value in line.items() if name not in times} for line in lines]

    def facts(self) -> dict[str, Any]:
        """The configuration without the client's own."""
        return {name: each["value"] for name, each in self.config.items() if name != "_wandb"}


@dataclass
class WandbServer:
    url: str = ""
    runs: dict[str, StoredRun] = field(default_factory=dict)  # by entity/project/name
    asked: list[str] = field(default_factory=list)
    fails: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # answers by the end of a path
    files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        if path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
            return 200, {}
        if path.startswith("/sdk/"):
            return 200, {}
        if authorization != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if path == "/graphql":
            asked = json.loads(body)
            return 200, {"data": self._graphql(asked["query"], asked.get("variables") or {})}
        place, _, end = path.removeprefix("/files/").rpartition("/")
        if end != "file_stream" or place not in self.runs:
            return 404, {"errors": [{"message": "run not found"}]}
        self._stream(self.runs[place], json.loads(body))
        return 200, {"exitcode": None, "limits": {}}

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return {"upsertBucket": self._upsert(given)}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {"model": {"bucket": None}, "viewer": {"entity": "acme", "username": "ann", "flags": "{}"}}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        name, project, entity = given.get("run") or given.get("name"), given["project"], given["entity"]
        run = self.runs.setdefault(f"{entity}/{project}/{name}", StoredRun())
        run.shown = given.get("shown") or given.get("displayName") or run.shown
        run.tags = given.get("tags") or run.tags
        run.config |= json.loads(given.get("config") or "{}")
        run.summary |= json.loads(given.get("summary") or given.get("summaryMetrics") or "{}")
        held = {"id": "p", "name": project, "entity": {"id": "e", "name": entity}}
        shown = {"id": "b", "name": name, "displayName": run.shown, "config": "{}", "historyLineCount": 0}
        return {"bucket": shown | {"project": held, "sweepName": None, "description": None}, "inserted": True}

    def _stream(self, run: StoredRun, sent: dict[str, Any]) -> None:
        for name, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                run.history |= dict(enumerate(lines, chunk["offset"]))
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


@contextmanager
def serving() -> Iterator[WandbServer]:
    wandb = WandbServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(wandb))
    wandb.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield wandb
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(wandb: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            wandb.asked.append(self.path)
            failing = next((each for end, each in wandb.fails.items() if self.path.endswith(end)), None)
            status, said = failing or wandb.answer(self.path, body, self.headers.get("authorization", ""))
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None: ...

    return Handler
