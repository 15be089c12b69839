"""A bill of materials over HTTP: both formats, the same bytes each time, and why there is none."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from tests.app.jobs.jobs import new_job
from tests.app.pages.test_routes import Page
from tests.app.papers.attested import attested
from tests.tamper.kit import World


@pytest.fixture
def job(embedded: FastAPI, client: TestClient, tmp_path: Path) -> str:
    return attested(embedded.state.backends, World(tmp_path / "world"))


def test_both_formats_are_served(client: TestClient, job: str) -> None:
    """CycloneDX unless SPDX is asked for; whenever and by whatever name the service is asked."""
    url = f"fine_tuning/jobs/{job}/bom"
    for query, kind, key in (
        ("", "application/vnd.cyclonedx+json; version=1.7", "bomFormat"),
        ("?format=cyclonedx", "application/vnd.cyclonedx+json; version=1.7", "bomFormat"),
        ("?format=spdx", "application/spdx+json", "@graph"),
    ):
        answer = client.get(url + query)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), answer.text
        assert key in answer.json()
        assert client.get(url + query, headers={"host": "127.0.0.1:9"}).content == answer.content


def test_why_there_is_none_is_said(client: TestClient, embedded: FastAPI, job: str) -> None:
    """Another format, a job without evidence, no such job, a row that was damaged: no answer is a 500."""
    wrong = client.get(f"fine_tuning/jobs/{job}/bom?format=word")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")
    assert "cyclonedx" in wrong.json()["error"]["message"]
    db = embedded.state.backends.database
    lifecycle.submit(db, new_job(id="ftjob-waits"))
    waits = client.get("fine_tuning/jobs/ftjob-waits/bom")
    assert (waits.status_code, waits.json()["error"]["code"]) == (404, "no_attestation")
    assert "it is queued" in waits.json()["error"]["message"]
    assert client.get("fine_tuning/jobs/ftjob-none/bom").status_code == 404
    with db.write() as session:
        session.get_one(Evidence, job).envelope = b'{"payload":"e30="}'
    damaged = client.get(f"fine_tuning/jobs/{job}/bom").json()["error"]
    assert damaged["code"] == "invalid_state" and "cannot be read" in damaged["message"]


def test_pages_of_job_and_model_link_them(client: TestClient, job: str) -> None:
    for page in (f"jobs/{job}", f"models/ft:toy:default::{job}"):
        links = Page(client.get(f"http://testserver/{page}").text).links
        for format in ("cyclonedx", "spdx"):
            assert f"/v1/fine_tuning/jobs/{job}/bom?format={format}" in links
    assert f"permafrost pack {job}" in client.get(f"http://testserver/jobs/{job}").text
