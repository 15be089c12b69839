"""Results in a hub's repository, against a stand-in of a hub."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.exports.destinations import parse
from tests.listening import QuietHandler, listening
from worker.supervisor.exports import to_hub
from worker.supervisor.sources.arriving import Later, SourceRefused

TOKEN = "hf_" + "c0ffee" * 5
DESTINATION = parse("hf://acme/tuned", param="destination")
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Receiver:
    """A hub that takes commits of one account."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool | None = None
    known: str = TOKEN


def taken(hub: Receiver, path: str, body: bytes) -> Any:
    """What the hub answers to a request that changes something."""
    if path == "/api/repos/create":
        wanted = json.loads(body)
        hub.private = wanted.get("private") or wanted.get("visibility") == "private"
        return {"url": f"{hub.url}/acme/tuned", "name": "acme/tuned"}
    if "/preupload/" in path:
        names = [each["path"] for each in json.loads(body)["files"]]
        answer = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in names]
        return {"files": answer}
    if "/commit/" in path:
        entries = [json.loads(line) for line in body.splitlines()]
        files = [entry["value"] for entry in entries if entry["key"] == "file"]
        hub.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
        return {"commitOid": COMMIT, "commitUrl": f"{hub.url}/acme/tuned/commit/{COMMIT}", "pullRequestUrl": None}
    return {"errors": [], "warnings": []}


@contextmanager
def receiving(hub: Receiver) -> Iterator[Receiver]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if self.headers.get("authorization") != f"Bearer {hub.known}":
                self._send(401, {"error": "unauthorized"})
            elif self.path.startswith("/api/models/acme/tuned"):
                self._send(200, {"id": "acme/tuned", "sha": COMMIT, "siblings": [], "tags": [], "private": True})
            else:
                self._send(200, {"name": "acme"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            self._send(200, taken(hub, self.path, body))

        def _send(self, status: int, answer: Any) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with listening(Handler) as hub.url:
        yield hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving(Receiver()) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        yield served


@pytest.fixture
def result(tmp_path: Path) -> Path:
    for name in ("README.md", "adapter_config.json", "attestation.json"):
        (tmp_path / name).write_text(f"{name} of the result")
    return tmp_path


def test_card_and_attestation_beside_the_weights(hub: Receiver, result: Path) -> None:
    """In one commit, of a private repository that is made where it is not there."""
    sent = to_hub.send(DESTINATION, result, job="ftjob-1", token=TOKEN, name="ours")
    assert {path.name for path in result.iterdir() if path.is_file()} == hub.files.keys()
    assert hub.files["attestation.json"] == b"attestation.json of the result"
    assert hub.private is True and sent["commit"] == COMMIT and sent["url"].endswith("acme/tuned")


def test_tokens_that_do_not_open_it(hub: Receiver, result: Path) -> None:
    """None, and one that the hub does not know: by name, and nothing is tried again."""
    with pytest.raises(SourceRefused, match="permafrost secrets set NAME --kind hub --scope acme") as refused:
        to_hub.send(DESTINATION, result, job="ftjob-1", token=None, name="")
    assert refused.value.code == "secret_missing"
    hub.known = "hf_another"
    with pytest.raises(SourceRefused, match="secret 'ours': its token is wrong") as refused:
        to_hub.send(DESTINATION, result, job="ftjob-1", token=TOKEN, name="ours")
    assert refused.value.code == "secret_refused" and TOKEN not in str(refused.value)


def test_a_hub_that_is_away(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later, as with every destination."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Later, match="could not be sent"):
        to_hub.send(DESTINATION, result, job="ftjob-1", token=TOKEN, name="ours")


def test_a_hub_that_hangs_is_given_up(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers: tried again later, and others do not wait behind it."""
    monkeypatch.setattr("worker.supervisor.hub.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Later, match="could not be sent"):
            to_hub.send(DESTINATION, result, job="ftjob-1", token=TOKEN, name="ours")
