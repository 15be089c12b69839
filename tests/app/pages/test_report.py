"""A job's report: one file, complete in itself."""

import hashlib
import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.jobs import claim, finish, result
from tests.app.pages.test_routes import Page


@pytest.fixture
def job(client: TestClient, upload: Upload) -> str:
    policy = {"freeze": ["weight"]}
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": policy, "suffix": "audit"}
    return str(client.post("fine_tuning/jobs", json=body).json()["id"])


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


@pytest.mark.parametrize("verdict", ["verified", "violated", "incomplete"])
def test_a_report_has_all_that_an_auditor_needs(client: TestClient, job: str, db: Database, verdict: str) -> None:
    """Verdict in words, policy, tensors, digests of data and base, the attestation's digest, the commands."""
    finish(db, claim(db), verdict=verdict, model=result(job))
    answer = client.get(f"fine_tuning/jobs/{job}/report")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    attestation = client.get(f"fine_tuning/jobs/{job}/attestation").content
    file = client.get("files").json()["data"][0]
    for part in (
        f"Verdict: {verdict}",
        "name weight",
        file["sha256"],
        "ab" * 32,
        hashlib.sha256(attestation).hexdigest(),
        "permafrost verify attestation.json",
        "Freeze map",
        "bias",
    ):
        assert part in page.text, part
    assert ("bit-identical to the base" in page.text) == (verdict == "verified")


def test_a_report_loads_nothing(client: TestClient, job: str, db: Database) -> None:
    """No link, script, picture, font or style of another file: it reads the same without a network."""
    finish(db, claim(db), verdict="verified", model=result(job))
    answer = client.get(f"fine_tuning/jobs/{job}/report")
    assert Page(answer.text).links == []
    assert "<script" not in answer.text and "@import" not in answer.text
    assert set(re.findall(r"url\(([^)]*)\)", answer.text)) == {"#hatch"}
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_job_without_evidence_has_a_report_too(client: TestClient, job: str) -> None:
    """Which says that nothing is proved; one that still runs has none yet."""
    early = client.get(f"fine_tuning/jobs/{job}/report")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "invalid_state")
    client.post(f"fine_tuning/jobs/{job}/cancel")
    assert "Verdict: no evidence" in Page(client.get(f"fine_tuning/jobs/{job}/report").text).text
    assert client.get("fine_tuning/jobs/ftjob-none/report").status_code == 404


def test_the_page_has_a_button_for_it(client: TestClient, job: str, db: Database) -> None:
    """Once the job has ended."""
    url = f"/v1/fine_tuning/jobs/{job}/report"
    assert url not in Page(client.get(f"http://testserver/jobs/{job}").text).links
    finish(db, claim(db), verdict="verified", model=result(job))
    assert url in Page(client.get(f"http://testserver/jobs/{job}").text).links
