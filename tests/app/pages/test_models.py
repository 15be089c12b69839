"""Pages of models: list, folders, deletion."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database, now
from app.jobs.queue import lifecycle
from app.models.tables import Model
from tests.app.jobs.jobs import claim, finish, new_job, result
from tests.app.pages.test_routes import Page, read

CHAT = {"type": "transformers", "path": "chat", "task": "causal-lm"}


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def words(page: Page) -> str:
    return re.sub(r"\s+", " ", page.text)


def base(db: Database, name: str = "chat", **fields: Any) -> None:
    values: dict[str, Any] = {"kind": "base", "status": "ready", "spec": CHAT, "files": [], "tensors": []}
    with db.write() as session:
        session.add(Model(id=name, owned_by="permafrost", created_at=now(session), **(values | fields)))


def tuned(db: Database, parent: str, spec: Any = CHAT, *, verdict: str = "verified", **more: Any) -> str:
    """The result of a job on `parent`."""
    job, _ = lifecycle.submit(db, new_job(model=parent, base_model=parent, model_spec=spec, **more))
    model = result(job.id)
    model.base_id, model.spec = parent, spec
    finish(db, claim(db), verdict=verdict, model=model)
    return model.id


def test_models_are_listed_and_filtered(client: TestClient, db: Database, embedded: FastAPI) -> None:
    """Folders that nobody has read among them; an unknown model and a folder are pages."""
    folder = embedded.state.backends.settings.models / "unread"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    base(db, "org/name@main")
    made = tuned(db, "org/name@main")
    page = read(client, "/models")
    assert {"/models/org/name%40main", "/models/unread", f"/models/{made.replace(':', '%3A')}"} <= set(page.links)
    assert "/models/unread" not in read(client, "/models?kind=fine_tuned").links
    assert "org/name@main" in read(client, "/models/org/name@main").text
    assert "no job has used" in read(client, "/models/unread").text
    assert "no model 'x'" in read(client, "/models/x", 404).text


def test_a_model_is_deleted_from_its_page(client: TestClient, db: Database) -> None:
    """Not while another model needs it."""
    base(db)
    made = tuned(db, "chat")
    url = "http://testserver/models/delete"
    assert client.post(url, data={"model": "chat"}, headers={"accept": "text/html"}).status_code == 409
    assert client.post(url, data={"model": made}).status_code == 200
    read(client, f"/models/{made}", 404)
