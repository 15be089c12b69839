"""`permafrost submit`, `watch` and `preview` against a running service."""

import json
import re
import threading
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import update

from app.db import Database
from app.evidence.tables import Evidence
from app.freeze.plan import TensorInfo
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.models.tables import Model
from tests.app.cli.commands import Command
from tests.app.conftest import AFFINE, rows
from tests.app.jobs.jobs import claim, finish, new_job
from tests.app.models.models import NAMES, add_model


def test_submit_watch_and_preview_talk_to_a_server(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """A job's id on standard output; watching ends with the verdict in the exit code."""
    db: Database = embedded.state.backends.database
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows())))
    policy = '{"freeze": ["weight"]}'
    submitted = permafrost(
        "submit", str(file), "--model", json.dumps(AFFINE), "--policy", policy, "--seed", "3", "--server", socket_url
    )
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    assert f"{socket_url}/jobs/{job}" in submitted.stderr
    finish(db, claim(db), verdict="violated")
    watched = permafrost("watch", job, PERMAFROST_SERVER=socket_url)
    assert watched.returncode == 1
    assert "succeeded, evidence violated" in watched.stderr
    assert "violation: weight at step 1" in watched.stderr
    assert watched.stderr.splitlines()[-1] == "exit code 1: 1 tensor declared frozen changed"
    shown = permafrost("preview", "--model", json.dumps(AFFINE), "--policy", policy, "--server", socket_url)
    assert shown.returncode == 0
    assert re.search(r"weight.*freeze", shown.stdout)
    assert "frozen: 1 tensor, 2 elements" in shown.stdout


def test_a_preview_waits_until_a_worker_has_read_the_model(
    permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path
) -> None:
    """It says so once, and then shows the plan."""
    backends = embedded.state.backends
    row = add_model(backends, tmp_path, status="pending", manifest=None)
    tensors = [TensorInfo(name, (2, 3), "F32").to_json() for name in NAMES]

    def read() -> None:
        with backends.database.write() as session:
            session.execute(update(Model).where(Model.id == row.id).values(status="ready", manifest=tensors))

    reading = threading.Timer(3, read)  # later or sooner, the plan is the same
    reading.start()
    shown = permafrost(
        "preview", "--model", "tiny", "--policy", '{"freeze": ["bert.**"]}', PERMAFROST_SERVER=socket_url
    )
    reading.join()
    assert shown.returncode == 0, shown.stderr
    assert "frozen: 2 tensors, 12 elements" in shown.stdout
    assert shown.stderr.count("a worker reads the model's files") in (0, 1)


def test_a_piped_watch_writes_lines(permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path) -> None:
    """A line for each state, then how it ended with the lines of the data; what users wrote is no markup."""
    db: Database = embedded.state.backends.database
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows())))
    job = permafrost("submit", str(file), "--model", json.dumps(AFFINE), "--server", socket_url).stdout.strip()
    problem = {"line": 7, "field": "x", "code": "c", "message": "x is [/red]"}
    failed = {"code": "invalid_training_data", "message": "1 problem [/bold]", "param": None, "errors": [problem]}

    def end() -> None:
        lifecycle.finish(db, claim(db), Outcome("failed", error=failed))

    asked = threading.Timer(3, end)  # later or sooner, the lines are the same but for those of the queue
    asked.start()
    done = permafrost("watch", job, PERMAFROST_SERVER=socket_url)
    asked.join()
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    ending = ["failed, no evidence", "1 problem [/bold]", "  line 7: x is [/red]", "exit code 1: the job is failed"]
    assert lines[-4:] == ending
    assert set(lines[:-4]) <= {"queued, position 1", "running"}


def test_watch_prints_one_line_for_one_cause(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """However many tensors one write changed; where nothing was frozen, it says so."""
    db: Database = embedded.state.backends.database
    evidence = Evidence(job_id="ftjob-many", attempt=1, verdict="violated", frozen_tensors=0, frozen_bytes=0)
    evidence.violations = [
        {"name": f"encoder.{number}", "first_bad_step": 1, "operation": "aten::add_"} for number in range(103)
    ]
    nothing = Evidence(job_id="ftjob-none", attempt=1, verdict="incomplete", frozen_tensors=0, frozen_bytes=0)
    nothing.reason = "nothing is frozen, so there is nothing to prove"
    for outcome in (evidence, nothing):
        lifecycle.submit(db, new_job(id=outcome.job_id))
        lifecycle.finish(db, claim(db), Outcome("succeeded", evidence=outcome))

    lines = permafrost("watch", "ftjob-many", PERMAFROST_SERVER=socket_url).stderr.splitlines()
    assert lines == [
        "succeeded, evidence violated",
        "violation: 103 tensors (encoder.0, encoder.1, encoder.2, …) at step 1, aten::add_",
        "exit code 1: 103 tensors declared frozen changed",
    ]
    done = permafrost("watch", "--json", "ftjob-none", PERMAFROST_SERVER=socket_url)
    assert (done.returncode, json.loads(done.stdout)["id"]) == (1, "ftjob-none")
    assert done.stderr.splitlines()[-1] == f"exit code 1: {nothing.reason}; --policy says what to freeze"


def test_a_refusal_is_shown_with_its_lines(permafrost: Command, socket_url: str, tmp_path: Path) -> None:
    """The service's own message, and code 1."""
    file = tmp_path / "train.jsonl"
    file.write_text('{"x":[1,2],"y":1}\n{"x":[1],"y":1}\n')
    done = permafrost("submit", str(file), "--model", json.dumps(AFFINE), "--server", socket_url)
    assert done.returncode == 1
    assert "line 2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_away_is_a_sentence(permafrost: Command) -> None:
    """And a hint."""
    done = permafrost("watch", "ftjob-1", PERMAFROST_SERVER="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "permafrost serve" in done.stderr
    assert "Traceback" not in done.stderr
