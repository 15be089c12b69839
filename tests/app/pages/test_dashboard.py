"""The dashboard's filters, which are in its address, and its counts, which stop."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs.queue import lifecycle
from app.pages import dashboard
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.jobs import new_job
from tests.app.pages.test_routes import read


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=NEEDLE", True),
        ("q=eedl&status=queued", True),
        ("q=ha_stack", False),
        ("q=%25", False),
        ("q=searchteam", True),
        ("tag=nightly", True),
        ("tag=night", False),
        ("model=torch%3Aaffine", True),
        ("model=other", False),
        ("tag=nightly&status=failed", False),
        ("status=nonsense", False),
        ("verdict=pending&q=needle", True),
    ],
)
def test_filters_are_in_the_address(client: TestClient, upload: Upload, query: str, found: bool) -> None:
    """Text in any case, in names and labels; a model and a tag as a whole; all of them together."""
    more = {"suffix": "needle", "tags": ["nightly"], "metadata": {"team": "SearchTeam"}}
    model = {"model": AFFINE, "training_file": upload(rows())}
    job = client.post("fine_tuning/jobs", json=model | more).json()
    query = query.replace("torch%3Aaffine", job["resolved_model"])
    page = read(client, f"/?{query}")
    assert (f"/jobs/{job['id']}" in page.links) == found
    assert ("No such job" in page.text) != found


def test_a_filter_leads_to_the_next(client: TestClient, upload: Upload) -> None:
    """A tile adds its state to what is chosen, and takes it away again; a tag in the list is a filter."""
    client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": upload(rows()), "tags": ["a b"]})
    page = read(client, "/?tag=a+b&status=queued")
    assert {"/?status=failed&tag=a+b", "/?tag=a+b", "/"} <= set(page.links)
    assert 'name="status" value="queued"' in client.get("http://testserver/?tag=a+b&status=queued").text


def test_counts_stop(client: TestClient, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many jobs make no dashboard slow; the number says that there are more."""
    monkeypatch.setattr(dashboard, "MOST_STATES", 2)
    for _ in range(3):
        lifecycle.submit(db, new_job())
    assert "2+queued" in "".join(read(client, "/").text.split())
