"""What changed between two models, on a page."""

import hashlib
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.pages import comparison
from app.storage.blobs import Storage
from tests.app.pages.test_models import base, words
from tests.app.pages.test_routes import Page, read


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def stored(db: Database, storage: Storage, name: str, tensors: dict[str, list[float]]) -> None:
    """A model with these tensors of float32, in one blob."""
    rows: list[dict[str, Any]] = []
    offset = 0
    with storage.writer() as writer:
        for tensor, values in tensors.items():
            data = np.array(values, dtype=np.float32).tobytes()
            writer.write(data)
            row = {"file": "model.safetensors", "name": tensor, "dtype": "F32", "shape": [len(values)]}
            rows.append(row | {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "offset": offset})
            offset += len(data)
    base(db, name, tensors=[row | {"blob": writer.blob.key} for row in rows])


@pytest.mark.parametrize("most", [comparison.MOST_BYTES, 8])
def test_two_models_are_compared(
    client: TestClient, db: Database, embedded: FastAPI, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Which tensors differ is always said, by how much where that is soon read."""
    monkeypatch.setattr(comparison, "MOST_BYTES", most)
    storage = embedded.state.backends.storage
    stored(db, storage, "a", {"same": [1.0, 2.0], "moved": [3.0, 4.0], "gone": [1.0]})
    stored(db, storage, "b", {"same": [1.0, 2.0], "moved": [3.0, 5.0], "more": [1.0]})
    text = words(read(client, "/compare?base=a&result=b"))
    assert "3 tensors of 4 differ" in text
    for part in ("1 same", "1 changed", "1 added", "1 removed"):
        assert part in text
    assert ("0.2" in text.partition("Relative change")[2]) == (most > 8)
    assert ("more than a page reads" in text) == (most == 8)
    assert "all 3 tensors have the same bytes" in words(read(client, "/compare?base=a&result=a"))


def test_what_cannot_be_compared_is_an_error_page(client: TestClient, db: Database) -> None:
    """An unknown model, and one whose tensors are not known."""
    base(db)
    for query, status in (("base=chat&result=none", 404), ("base=chat&result=chat", 409)):
        answer = client.get(f"http://testserver/compare?{query}", headers={"accept": "text/html"})
        assert answer.status_code == status and "Permafrost" in Page(answer.text).text
    assert "From" in read(client, "/compare").text
