"""Where a model comes from, and what was made of it."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from tests.app.pages.test_models import base, tuned, words
from tests.app.pages.test_routes import read


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def test_a_model_has_a_lineage(client: TestClient, db: Database) -> None:
    """Base, fine-tune, fine-tune: each edge with its job, verdict and attestation, and what was made of it."""
    base(db)
    first = tuned(db, "chat")
    second = tuned(db, first, verdict="incomplete")
    page = read(client, f"/models/{second}")
    text = words(page).partition("Where it comes from")[2]
    assert text.index("chat base") < text.index("verified") < text.index(first) < text.index("incomplete")
    assert f"/compare?base=chat&result={second.replace(':', '%3A')}" in page.links
    assert sum(link.endswith("/attestation") for link in page.links) == 2
    assert second in words(read(client, f"/models/{first}")).partition("Made from it")[2]


def test_a_base_that_was_deleted_is_named(client: TestClient, db: Database) -> None:
    """The line begins there."""
    assert "gone deleted" in words(read(client, f"/models/{tuned(db, 'gone')}"))
