"""Uploads by both doors: the API's and the form's."""

from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient


def test_a_refused_upload_leaves_nothing(client: TestClient, embedded: FastAPI) -> None:
    """No row and no blob, whatever is wrong with it; a right one is stored by either door."""
    content: dict[str, Any] = {"files": {"file": ("a.jsonl", b"{}")}}
    for path, purpose, status in (
        ("files", "fine-tune", 200),
        ("http://testserver/new/file", "fine-tune", 303),
        ("files", "none", 400),
        ("http://testserver/new/file", "none", 400),
    ):
        name = f"{path[-4:]}{purpose}.jsonl"
        form = content | {"data": {"purpose": purpose}, "files": {"file": (name, name.encode())}}
        assert client.post(path, **form, follow_redirects=False).status_code == status
    assert len(client.get("files").json()["data"]) == 2
    assert len(list(embedded.state.backends.storage.blobs())) == 2
