"""The tools of `permafrost mcp`, against a real API: what they ask, and what an agent reads when they are refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.cli.agents import Refused, Tools
from app.cli.service import connect
from tests.app.conftest import AFFINE, rows
from tests.app.jobs.jobs import claim, finish

FREEZE = {"freeze": ["weight"]}


@pytest.fixture
def tools(socket_url: str) -> Iterator[Tools]:
    with connect(socket_url) as client:
        yield Tools(client)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    return str(path)


def test_a_job_from_its_policy_to_its_end(tools: Tools, embedded: FastAPI, file: str) -> None:
    """Explained, tried, submitted, listed, watched; a watch of a job that goes on ends with its time."""
    explained = tools.explain_policy(AFFINE, FREEZE)
    assert {each["name"]: each["action"] for each in explained["data"]} == {"weight": "freeze", "bias": "train"}
    assert [each["name"] for each in tools.explain_policy(AFFINE, FREEZE, after="bias")["data"]] == ["weight"]
    assert tools.submit(AFFINE, file, FREEZE, dry_run=True)["object"] == "fine_tuning.job.dry_run"
    assert tools.jobs()["data"] == []
    job = tools.submit(AFFINE, file, FREEZE, hyperparameters={"n_epochs": 1}, seed=3)
    assert (job["seed"], job["status"]) == (3, "queued")
    assert tools.watch(job["id"], seconds=1)["status"] == "queued"
    assert [each["id"] for each in tools.jobs(status="queued", limit=5)["data"]] == [job["id"]]
    db = embedded.state.backends.database
    finish(db, claim(db))
    assert tools.watch(job["id"], seconds=300)["status"] == tools.show(job["id"])["status"] == "succeeded"


def test_refusals_say_what_would_work(tools: Tools, file: str, tmp_path: Path) -> None:
    """A policy with a typo, a file that is not there, a job that never was, an attestation that cannot be read."""
    with pytest.raises(Refused, match="weight"):
        tools.explain_policy(AFFINE, {"freeze": ["wieght"]})
    with pytest.raises(Refused, match=r"no file .*none\.jsonl on this machine"):
        tools.submit(AFFINE, str(tmp_path / "none.jsonl"))
    with pytest.raises(Refused, match=r"code not_found\)\nto see the jobs"):
        tools.show("ftjob-none")
    with pytest.raises(Refused, match="could not check"):
        tools.verify(file, key=file, result=str(tmp_path))


def test_a_service_that_is_away_is_named() -> None:
    with connect("http://127.0.0.1:1") as client, pytest.raises(Refused, match=r"127\.0\.0\.1:1/v1/ does not answer"):
        Tools(client).jobs()
