"""Offline runs: written without a connection, and `wandb sync` makes of them what an export makes at a server."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.jsontypes import JsonDict
from tests.wandb_server import KEY, serving
from tests.worker.supervisor.exports.test_to_wandb import CURVES, FACTS, JOB
from worker.supervisor.exports.tracked_job import TrackedJob

#: In a process of its own, as exporters do it; any connection but that to its own program ends it.
WRITE = """
import json, sys
from pathlib import Path
from app.exports.destinations import parse
from app.webhooks.addresses import AddressRefused
from worker.supervisor.exports import to_wandb_offline
from worker.supervisor.exports.tracked_job import TrackedJob
job, into = TrackedJob.from_json(json.loads(sys.argv[1])), Path(sys.argv[2])
print(json.dumps(to_wandb_offline.send(parse("wandb+offline://acme/encoders", param="d"), job, into=into)))
"""

pytestmark = pytest.mark.slow  # their client starts a program of its own


def write(job: TrackedJob, into: Path) -> JsonDict:
    environment = {"PATH": os.environ["PATH"], "HOME": str(into.parent), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", WRITE, json.dumps(job.to_json()), str(into)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    receipt: JsonDict = json.loads(done.stdout.splitlines()[-1])
    return receipt


def test_sync_makes_the_run_of_it(tmp_path: Path) -> None:
    """With name, tags, configuration, curves and verdict; without this machine's packages and host."""
    receipt = write(JOB, tmp_path / "runs")
    folder = tmp_path / "runs" / "wandb" / receipt["folder"]
    assert receipt["run_id"] == "ftjob-1" and list(folder.glob("*.wandb"))
    assert not [path.name for path in folder.rglob("*") if path.name in ("requirements.txt", "wandb-metadata.json")]
    with serving() as server:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WANDB_API_KEY": KEY}
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_ERROR_REPORTING": "false"}
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    run = server.runs["acme/encoders/ftjob-1"]
    assert (run.facts(), run.curves()) == (JOB.params | FACTS, CURVES)
    assert (run.exit_code, run.shown, run.tags) == (0, "tuned", ["permafrost"])
    assert run.summary["permafrost.verdict"] == "verified"


def test_written_again_it_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """An exporter may do it twice; another job's run stays."""
    write(replace(JOB, id="ftjob-12"), tmp_path / "runs")
    for _ in range(2):
        write(JOB, tmp_path / "runs")
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*-ftjob-1"))) == 1
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*"))) == 2


def test_a_worker_without_the_package_says_so(tmp_path: Path) -> None:
    """With what installs it."""
    code = "import sys; sys.modules['wandb'] = None\n" + WRITE
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(JOB.to_json()), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install permafrost[wandb]" in done.stderr
