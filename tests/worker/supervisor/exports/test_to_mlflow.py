"""What an MLflow server's answers mean; a real one is in test_exporter.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.exports.destinations import parse
from app.jsontypes import JsonDict
from tests.listening import QuietHandler, listening
from worker.supervisor.exports import to_mlflow
from worker.supervisor.sources.arriving import Later, SourceRefused

TOLD: JsonDict = {
    "job": "ftjob-1", "status": "succeeded", "model": "ft:a", "verdict": "verified", "suffix": None,
    "started": 1, "ended": 2, "params": {}, "metrics": [],
}  # fmt: skip


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as url:
        yield f"mlflow+{url}/team", seen


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, b"", SourceRefused, "secret_refused"),
        (403, b"{}", SourceRefused, "secret_refused"),
        (404, b"<html>", SourceRefused, "destination_refused"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', SourceRefused, "destination_refused"),
        (503, b"", Later, None),
        (429, b"", Later, None),
    ],
)
def test_what_is_final_and_what_is_not(
    tmp_path: Path, status: int, body: bytes, kind: type[Exception], code: str | None
) -> None:
    """A server that refuses will refuse again; one that is busy may not."""
    with answering(status, body) as (url, seen), pytest.raises(kind) as raised:
        secret = {"token": "canary"}
        to_mlflow.send(parse(url, param="d"), tmp_path, TOLD, secret=secret, name="ours")
    assert getattr(raised.value, "code", None) == code and "canary" not in str(raised.value)
    assert seen == ["Bearer canary"]


def test_a_user_name_makes_a_password_of_the_token(tmp_path: Path) -> None:
    """As servers with MLflow's own basic authentication want it."""
    with answering(500, b"") as (url, seen), pytest.raises(Later):
        secret = {"username": "u", "token": "p"}
        to_mlflow.send(parse(url, param="d"), tmp_path, TOLD, secret=secret, name="ours")
    assert seen == ["Basic dTpw"]


def test_curves_in_batches_that_the_server_takes() -> None:
    """A thousand points at once; numbers that are none are left out."""
    points = [{"step": n, "split": "train", "values": {"loss": float(n), "bad": float("nan")}} for n in range(1_500)]
    batches = list(to_mlflow._batches(TOLD | {"metrics": points, "params": {f"p{n}": "x" for n in range(150)}}))
    assert [len(batch.get("params", ())) for batch in batches] == [100, 50, 0, 0]
    assert [len(batch.get("metrics", ())) for batch in batches] == [0, 0, 1_000, 500]
