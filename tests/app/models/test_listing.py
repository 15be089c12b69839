"""Models by pages: rows and folders in one order, by kind."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openai import OpenAI
from starlette.testclient import TestClient

from app.http.dependencies import Backends
from app.models.tables import Model
from tests.app.models.models import SPEC


def add(backends: Backends, model_id: str, at: int, kind: str = "base", **fields: Any) -> None:
    row = Model(id=model_id, owned_by="permafrost", kind=kind, status="ready", spec=SPEC, files=[], tensors=[])
    row.created_at = datetime.fromtimestamp(at, UTC)
    for name, value in fields.items():
        setattr(row, name, value)
    with backends.database.write() as session:
        session.add(row)


def folder(backends: Backends, name: str, at: int) -> None:
    path: Path = backends.settings.models / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    os.utime(path / "config.json", (at, at))


def pages(client: TestClient, limit: int, **query: Any) -> list[str]:
    """The ids of all pages of this size, read by cursor as the other lists are."""
    ids: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("models", params={"limit": limit, **query, **after}).json()
        assert len(page["data"]) <= limit
        ids += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            return ids
        assert len(page["data"]) == limit
        after = {"after": page["last_id"]}


def test_pages_hold_rows_and_folders_in_one_order(client: TestClient, backends: Backends) -> None:
    """Newest first or oldest first, each once, whatever the size of a page and wherever it ends."""
    for at, name in ((10, "a"), (30, "c"), (50, "e"), (51, "f")):
        add(backends, name, at)
    for at, name in ((5, "folder-0"), (20, "folder-b"), (30, "folder-c"), (60, "folder-g")):
        folder(backends, name, at)
    add(backends, "gone", 55, kind="checkpoint", status="dropped", error="x")
    add(backends, "theirs", 56, project="other")
    expected = ["folder-g", "f", "e", "folder-c", "c", "folder-b", "a", "folder-0"]
    for limit in (1, 2, 3, 8, 100):
        assert pages(client, limit) == expected
        assert pages(client, limit, order="asc") == expected[::-1]


def test_models_are_filtered_by_kind(client: TestClient, backends: Backends) -> None:
    """Folders are bases; the SDK's way to write a list works too."""
    add(backends, "base", 1)
    add(backends, "result", 2, kind="fine_tuned", project="default")
    add(backends, "step", 3, kind="checkpoint", project="default")
    folder(backends, "folder", 4)
    assert pages(client, 1, kind="base") == ["folder", "base"]
    assert pages(client, 1, kind="fine_tuned") == ["result"]
    assert pages(client, 1, **{"kind[]": ["fine_tuned", "checkpoint"]}) == ["step", "result"]
    for name in ("kind", "kind[]"):
        refused = client.get("models", params={name: "adapter"})
        assert (refused.status_code, refused.json()["error"]["param"].removesuffix("[0]")) == (400, "kind")


def test_a_cursor_that_is_gone_is_refused(client: TestClient, backends: Backends) -> None:
    """By name; one that has left the filter works."""
    add(backends, "base", 1)
    add(backends, "result", 2, kind="fine_tuned", project="default")
    answer = client.get("models", params={"after": "nothing"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")
    after = client.get("models", params={"after": "result", "kind": "base"}).json()
    assert [model["id"] for model in after["data"]] == ["base"]


def test_the_sdk_lists_every_model(openai: OpenAI, backends: Backends) -> None:
    """It reads one page and never another."""
    for number in range(120):
        add(backends, f"m-{number}", number + 1)
    assert len(list(openai.models.list())) == 120
