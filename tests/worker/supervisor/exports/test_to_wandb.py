"""Runs for Weights & Biases: the same at the server as its own client makes them, and each once, however often sent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.exports.destinations import parse
from app.jsontypes import JsonDict
from tests.wandb_server import KEY, StoredRun, WandbServer, serving
from worker.supervisor.exports import to_wandb
from worker.supervisor.exports.tracked_job import TrackedJob
from worker.supervisor.sources.arriving import Later, SourceRefused

JOB = TrackedJob(
    id="ftjob-1", status="succeeded", model="ft:a", verdict="verified", suffix="tuned",
    started=1_000, ended=2_000, params={"model": "a", "optimizer.name": "adamw"},
    metrics=[
        {"step": 1, "split": "train", "values": {"loss": 2.0, "bad": float("nan")}},
        {"step": 2, "split": "train", "values": {"loss": 1.0}},
        {"step": 2, "split": "valid", "values": {"loss": 1.5}},
    ],
)  # fmt: skip
FACTS = {"permafrost.job": "ftjob-1", "permafrost.model": "ft:a", "permafrost.verdict": "verified"}
CURVES = [{"_step": 1, "train/loss": 2.0}, {"_step": 2, "train/loss": 1.0, "valid/loss": 1.5}]
#: A run by wandb itself, of the same curves.
THEIRS = """
import sys, wandb
quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True)
run = wandb.init(entity="acme", project="encoders", id="ftjob-2", name="tuned", tags=["permafrost"], mode="online",
                 config={"model": "a", "optimizer.name": "adamw"} | eval(sys.argv[1]), settings=quiet)
run.log({"train/loss": 2.0}, step=1)
run.log({"train/loss": 1.0, "valid/loss": 1.5}, step=2)
run.summary.update(eval(sys.argv[1]))
run.finish()
"""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as made:
        yield made


def send(server: WandbServer, job: TrackedJob = JOB, *, token: str = KEY) -> JsonDict:
    url = f"wandb+http://{server.url.removeprefix('http://')}/acme/encoders"
    secret = {"token": token} if token else None
    return to_wandb.send(parse(url, param="d"), job, secret=secret, name="ours")


def seen(run: StoredRun) -> object:
    last = {name: value for name, value in run.summary.items() if name not in ("_timestamp", "_runtime", "_wandb")}
    return run.shown, run.tags, run.facts(), run.curves(), last, run.exit_code


def test_a_run_with_curves_and_verdict(server: WandbServer) -> None:
    """And its address on the server's pages. Sent again, nothing is added."""
    for _ in range(2):
        receipt = send(server)
        assert receipt == {"url": f"{server.url}/acme/encoders/runs/ftjob-1", "run_id": "ftjob-1"}
        run = server.runs["acme/encoders/ftjob-1"]
        assert run.facts() == JOB.params | FACTS
        assert (run.curves(), run.exit_code, run.shown, run.tags) == (CURVES, 0, "tuned", ["permafrost"])


@pytest.mark.slow  # their client starts a program of its own
def test_their_client_makes_the_same_run(server: WandbServer, tmp_path: Path) -> None:
    """Name, tags, configuration, history, summary and end at the server."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WANDB_API_KEY": KEY}
    environment |= {"WANDB_BASE_URL": server.url, "WANDB_DIR": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-c", THEIRS, repr(FACTS | {"permafrost.job": "ftjob-1"})]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    send(server)
    theirs, ours = (server.runs[f"acme/encoders/ftjob-{number}"] for number in (2, 1))
    assert seen(ours) == seen(theirs)


def test_curves_in_parts_that_the_server_takes(server: WandbServer) -> None:
    """A thousand lines at once, each at its place."""
    metrics = [{"step": step, "split": "train", "values": {"loss": float(step)}} for step in range(2_500)]
    send(server, replace(JOB, metrics=metrics))
    run = server.runs["acme/encoders/ftjob-1"]
    assert [line["_step"] for line in run.curves()] == list(range(2_500))
    assert len([path for path in server.asked if path.endswith("file_stream")]) == 4


def test_a_job_that_failed_without_a_point(server: WandbServer) -> None:
    """A run that failed, and is not called verified."""
    send(server, replace(JOB, status="failed", metrics=[], model=None, verdict=None))
    run = server.runs["acme/encoders/ftjob-1"]
    assert (run.exit_code, run.curves(), run.summary) == (1, [], {"permafrost.job": "ftjob-1"})


@pytest.mark.parametrize("token", ["wrong-canary", ""])
def test_a_key_that_is_not_taken(server: WandbServer, token: str) -> None:
    """Final, with the command that helps and without the key."""
    with pytest.raises(SourceRefused, match="secrets set NAME --kind wandb") as refused:
        send(server, token=token)
    assert refused.value.code == "secret_refused" and "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "status", "body", "kind"),
    [
        ("graphql", 500, b"", Later),
        ("graphql", 429, b"", Later),
        ("graphql", 404, b'{"errors": [{"message": "entity acme not found"}]}', SourceRefused),
        ("graphql", 200, b'{"errors": [{"message": "project is archived"}]}', SourceRefused),
        ("graphql", 200, b"<html>", SourceRefused),
        ("graphql", 200, b'{"data": {"upsertBucket": null}}', SourceRefused),
        ("file_stream", 503, b"", Later),
        ("file_stream", 403, b"{}", SourceRefused),
        ("file_stream", 400, b'{"error": "no"}', SourceRefused),
        ("file_stream", 302, b"", SourceRefused),
    ],
)
def test_curves_that_did_not_arrive_are_not_called_sent(
    server: WandbServer, path: str, status: int, body: bytes, kind: type[Exception]
) -> None:
    """Whichever request it was that the server refused."""
    server.fails[path] = (status, body)
    with pytest.raises(kind):
        send(server)
