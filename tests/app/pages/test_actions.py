"""What the forms of a job's page do."""

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.jobs.queue import lifecycle
from tests.app.jobs.jobs import claim, finish, new_job

BROWSER = {"accept": "text/html"}


def test_a_job_is_steered_by_forms(client: TestClient, embedded: FastAPI) -> None:
    """Each leads back to the job's page; what its state does not allow is an error page."""
    lifecycle.submit(embedded.state.backends.database, new_job(id="ftjob-a"))
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = client.post(f"http://testserver/jobs/ftjob-a/{verb}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs/ftjob-a")
        assert client.get("fine_tuning/jobs/ftjob-a").json()["status"] == status
    refused = client.post("http://testserver/jobs/ftjob-a/pause", headers=BROWSER)
    assert refused.status_code == 409 and "cannot be paused" in refused.text


def test_a_job_that_has_ended_is_deleted(client: TestClient, embedded: FastAPI) -> None:
    """Not before its end; afterwards its page says that it was there."""
    db = embedded.state.backends.database
    lifecycle.submit(db, new_job(id="ftjob-a"))
    lease = claim(db)
    url = "http://testserver/jobs/ftjob-a"
    assert "Delete the job" not in client.get(url).text
    assert client.post(f"{url}/delete").status_code == 409
    finish(db, lease)
    assert "Delete the job" in client.get(url).text
    assert client.post(f"{url}/delete", follow_redirects=False).headers["location"] == "/"
    assert client.get(url, headers=BROWSER).status_code == 410
