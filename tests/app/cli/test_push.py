"""`permafrost push`."""

import json
import threading
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from app.cli import push as command
from app.cli.commands import make_app
from app.exports import queue
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from tests.app.jobs.jobs import new_job


def push(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(make_app(), ["push", *arguments, "--server", url])


def ended_job(application: FastAPI) -> str:
    db = application.state.backends.database
    job, _ = lifecycle.submit(db, new_job())
    lease = lifecycle.claim(db, worker="w", seconds=600)
    assert lease is not None
    lifecycle.finish(db, lease, Outcome("succeeded"))
    return job.id


@pytest.mark.parametrize(("receipt", "code"), [({"url": "s3://bucket/prefix/"}, 0), (None, 1)])
def test_it_waits_until_it_has_arrived(
    embedded: FastAPI, socket_url: str, monkeypatch: pytest.MonkeyPatch, receipt: Any, code: int
):
    """Or was given up, with the reason."""
    monkeypatch.setattr(command, "_LOOK_SECONDS", 0.05)
    job, db = ended_job(embedded), embedded.state.backends.database

    def exporter() -> None:
        while (due := queue.take_due(db)) is None:
            pass
        with db.write() as session:
            queue.complete(session, due, receipt=receipt, error=None if receipt else "no such bucket", final=True)

    thread = threading.Thread(target=exporter)
    thread.start()
    done = push(socket_url, job, "s3://bucket/prefix")
    thread.join()
    assert done.exit_code == code, done.output
    assert (
        "delivered, s3://bucket/prefix/" if receipt else "failed, s3://bucket/prefix: no such bucket"
    ) in done.stdout


def test_it_does_not_have_to_wait(embedded: FastAPI, socket_url: str):
    """The service goes on with it."""
    job = ended_job(embedded)
    done = push(socket_url, job, "hf://acme/tuned", "--no-wait", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["status"] == "pending"
    assert httpx2.get(f"{socket_url}/v1/fine_tuning/jobs/{job}/exports").json()["data"][0]["status"] == "pending"
    assert push(socket_url, job, "ftp://x").exit_code != 0
