"""Pages of sweeps: the table of ranks as the server sends it, without any script."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.pages.sweeps import cell
from tests.app.conftest import Upload, rows
from tests.app.pages.test_routes import Page
from tests.app.sweeps.sweeps import body, run


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


@pytest.fixture
def sweep(client: TestClient, upload: Upload) -> Any:
    wanted = body(upload(rows()), metadata={"team": "<b>x</b>"})
    return client.post("fine_tuning/sweeps", json=wanted).json()


def get(client: TestClient, path: str) -> Page:
    answer = client.get(f"http://testserver{path}")
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert [link for link in page.links if not link.startswith(("/", "#"))] == []
    assert len(page.ids) == len(set(page.ids))
    return page


def test_a_sweeps_page_ranks_its_jobs(client: TestClient, sweep: Any, db: Database) -> None:
    """The best first, with what each job has of its own, its evidence, and a link to it."""
    done = [run(db, loss) for loss in (0.5, 0.25)]
    page = get(client, f"/sweeps/{sweep['id']}")
    jobs = [link for link in page.links if link.startswith("/jobs/")]
    waiting = sweep["ranking"][2]["job_id"]
    assert jobs == [f"/jobs/{job}" for job in (done[1], done[0], waiting, done[1])]  # the last: of the best model
    text = " ".join(page.text.split())
    assert "Ranked by validation loss, least first" in text
    assert "1 0.25 0.01 100 succeeded verified" in text
    assert "<b>x</b>" in page.text and "1 queued, 2 succeeded of 3 jobs" in text


def test_jobs_dashboard_and_list_lead_to_it(client: TestClient, sweep: Any) -> None:
    """From the job's page, from the navigation of every page, from the list of sweeps."""
    job = sweep["ranking"][0]["job_id"]
    assert f"/sweeps/{sweep['id']}" in get(client, f"/jobs/{job}").links
    assert "/sweeps" in get(client, "/").links
    assert f"/sweeps/{sweep['id']}" in get(client, "/sweeps").links


def test_a_job_outlives_the_record_of_its_sweep(client: TestClient, sweep: Any) -> None:
    """Its page then names no sweep."""
    path = f"fine_tuning/sweeps/{sweep['id']}"
    client.post(f"{path}/cancel")
    client.delete(path)
    assert sweep["id"] not in get(client, f"/jobs/{sweep['ranking'][0]['job_id']}").text
    answer = client.get(f"http://testserver/sweeps/{sweep['id']}")
    assert answer.status_code == 404 and "No such sweep" in answer.text


def test_a_list_without_sweeps_says_how_to_make_one(client: TestClient) -> None:
    """Also on a page behind the last one."""
    assert "No sweep yet" in get(client, "/sweeps").text
    assert "No sweep any more" in get(client, "/sweeps?page=7").text


def test_a_cell_is_short_and_its_whole_value_is_kept() -> None:
    """Policies and optimizers are JSON."""
    assert cell({"hyperparameters": {"learning_rate": 0.001}}, "learning_rate") == ("0.001", "0.001")
    assert cell({"seed": 1}, "learning_rate") == ("–", "")
    shown, whole = cell({"freeze_policy": {"freeze": ["a" * 90]}}, "freeze_policy")
    assert (len(shown), shown[-1]) == (60, "…") and len(whole) > 90
