"""Results below a prefix of a store: what has an attestation is whole."""

from pathlib import Path
from typing import Any

import pytest

from app.exports.destinations import parse
from worker.supervisor.exports import to_store


def test_the_attestation_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that finds it finds the files that it is about."""
    for name in ("attestation.json", "z.safetensors", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    sent: list[str] = []

    class Files:
        def put_file(self, _: str, target: str) -> None:
            sent.append(target)

    def store(keys: Any) -> Files:
        return Files()

    monkeypatch.setattr("worker.supervisor.sources.object_store.store", store)
    to_store.send(parse("s3://bucket/a/b", param="d"), tmp_path, keys=None, name="")
    assert sent == [f"bucket/a/b/{name}" for name in ("1_Pooling/config.json", "z.safetensors", "attestation.json")]
