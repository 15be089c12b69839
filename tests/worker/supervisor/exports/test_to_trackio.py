"""Runs for Trackio: at a real server of it, on loopback, each point once; and what its refusals mean."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from app.exports.destinations import parse
from app.jsontypes import JsonDict
from tests.tracking import trackio
from tests.worker.supervisor.exports.test_to_wandb import JOB
from tests.worker.supervisor.exports.test_tracking import answering
from worker.supervisor.exports import to_trackio
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.sources.arriving import Later, SourceRefused

TOKEN = "write-canary"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with trackio(tmp_path_factory.mktemp("trackio"), token=TOKEN) as url:
        yield url


def send(url: str, job: TrackedJob, *, token: str = TOKEN) -> JsonDict:
    destination = parse(f"trackio+{url}/encoders", param="d")
    return to_trackio.send(destination, job, secret={"token": token} if token else None, name="ours")


def ask(server: str, name: str, **arguments: Any) -> Any:
    answer = httpx2.post(f"{server}/api/{name}", json={"args": [], "kwargs": arguments}).raise_for_status()
    return answer.json()["data"]


def points(server: str, job: str) -> list[dict[str, Any]]:
    rows = ask(server, "get_logs", project="encoders", run="tuned", run_id=job)
    return [{name: value for name, value in row.items() if name != "timestamp"} for row in rows]


@pytest.mark.slow  # a real server starts for it
def test_a_run_with_curves_and_verdict(server: str) -> None:
    """Parameters and verdict are its configuration. Sent again, no point is there twice."""
    for _ in range(2):
        receipt = send(server, JOB)
        assert receipt == {"url": f"{server}/?project=encoders", "run": "tuned", "run_id": "ftjob-1"}
        assert points(server, "ftjob-1") == [
            {"step": 1, "train/loss": 2.0},
            {"step": 2, "train/loss": 1.0, "valid/loss": 1.5},
        ]
    config = ask(server, "get_run_configs", project="encoders")
    assert "adamw" in str(config) and "'permafrost.verdict': 'verified'" in str(config)


@pytest.mark.slow
def test_jobs_of_one_name_are_two_runs(server: str) -> None:
    """A suffix is no id."""
    for job in ("ftjob-a", "ftjob-b"):
        send(server, replace(JOB, id=job))
    assert len(points(server, "ftjob-a")) == len(points(server, "ftjob-b")) == 2


@pytest.mark.slow
def test_more_points_than_a_request_takes(server: str) -> None:
    """All of them, in order."""
    metrics = [{"step": step, "split": "train", "values": {"loss": float(step)}} for step in range(1_200)]
    send(server, replace(JOB, id="ftjob-long", metrics=metrics))
    summary = ask(server, "get_run_summary", project="encoders", run="tuned", run_id="ftjob-long")
    assert summary["num_logs"] == 1_200 and summary["last_step"] == 1_199


@pytest.mark.slow
def test_a_job_that_failed_without_a_point(server: str) -> None:
    """Is a run all the same."""
    send(server, replace(JOB, id="ftjob-none", status="failed", metrics=[], verdict=None, model=None))
    assert "ftjob-none" in str(ask(server, "get_runs_for_project", project="encoders"))


@pytest.mark.slow
@pytest.mark.parametrize("token", ["wrong-canary", ""])
def test_a_token_that_is_not_taken(server: str, token: str) -> None:
    """Final, with the command that helps and without the token."""
    with pytest.raises(SourceRefused, match="secrets set NAME --kind trackio") as refused:
        send(server, JOB, token=token)
    assert refused.value.code == "secret_refused" and "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"api_version": 2}', SourceRefused),
        (200, b"<html>", SourceRefused),
        (404, b"", SourceRefused),
        (502, b"", Later),
    ],
)
def test_what_is_no_server_of_this_version(status: int, body: bytes, kind: type[Exception]) -> None:
    """Nothing is sent to it."""
    with answering(status, body) as (url, seen), pytest.raises(kind):
        send(url, JOB)
    assert len(seen) == 1
