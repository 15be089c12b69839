"""What an MLflow server's answers mean; a real one is in test_exporter.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.exports.destinations import parse
from tests.worker.supervisor.exports.test_tracking import answering
from worker.supervisor.exports import to_mlflow
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.sources.arriving import Later

JOB = TrackedJob(
    id="ftjob-1", status="succeeded", model="ft:a", verdict="verified", suffix=None,
    started=1, ended=2, params={}, metrics=[],
)  # fmt: skip


def test_a_user_name_makes_a_password_of_the_token(tmp_path: Path) -> None:
    """As servers with MLflow's own basic authentication want it."""
    with answering(500, b"") as (url, seen), pytest.raises(Later):
        secret = {"username": "u", "token": "p"}
        to_mlflow.send(parse(f"mlflow+{url}/team", param="d"), tmp_path, JOB, secret=secret, name="ours")
    assert seen == ["Basic dTpw"]


def test_curves_in_batches_that_the_server_takes() -> None:
    """A thousand points at once; numbers that are none are left out."""
    points = [{"step": n, "split": "train", "values": {"loss": float(n), "bad": float("nan")}} for n in range(1_500)]
    batches = list(to_mlflow._batches(replace(JOB, metrics=points, params={f"p{n}": "x" for n in range(150)})))
    assert [len(batch.get("params", ())) for batch in batches] == [100, 50, 0, 0]
    assert [len(batch.get("metrics", ())) for batch in batches] == [0, 0, 1_000, 500]
