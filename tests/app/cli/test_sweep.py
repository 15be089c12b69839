"""`permafrost sweep` against a running service: submitting, waiting, the table of ranks."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.db import Database
from app.jobs.queue import lifecycle
from tests.app.cli.commands import Command
from tests.app.conftest import AFFINE, rows
from tests.app.sweeps.sweeps import run
from tests.patience import PATIENCE


@pytest.fixture
def train(tmp_path: Path) -> Path:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, rows())))
    return file


def test_options_make_a_sweep_and_its_id_shows_the_ranks(
    permafrost: Command, socket_url: str, embedded: FastAPI, train: Path
) -> None:
    """One value is for all jobs, several make them; the id alone is on standard output."""
    db: Database = embedded.state.backends.database
    options = ["--grid", "learning_rate=0.1,0.01", "--grid", "validation_fraction=0.25", "--seed", "7"]
    options += ["--policy", '{"freeze": ["weight"]}', "--server", socket_url]
    submitted = permafrost("sweep", str(train), "--model", json.dumps(AFFINE), *options)
    assert submitted.returncode == 0, submitted.stderr
    sweep = submitted.stdout.strip()
    assert f"{socket_url}/sweeps/{sweep}" in submitted.stderr
    best = [run(db, loss) for loss in (0.5, 0.25)][1]

    shown = permafrost("sweep", sweep, PERMAFROST_SERVER=socket_url)
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["rank", "valid", "loss", "learning_rate", "step", "state", "evidence", "job"]
    assert lines[1].split() == ["1", "0.25", "0.01", "100", "succeeded", "verified", best]
    assert lines[-1].startswith(f"best: {best}")
    as_json: Any = json.loads(permafrost("sweep", sweep, "--json", PERMAFROST_SERVER=socket_url).stdout)
    assert [row["values"] for row in as_json["ranking"]] == [
        {"hyperparameters": {"learning_rate": rate}} for rate in (0.01, 0.1)
    ]
    refused = permafrost("cancel", sweep, PERMAFROST_SERVER=socket_url)
    assert refused.returncode == 1 and "all of its jobs have already ended" in refused.stderr


def test_a_request_in_a_file_is_sent_and_waited_for(
    permafrost: Command, socket_url: str, embedded: FastAPI, train: Path, tmp_path: Path
) -> None:
    """The table follows once the last job has ended."""
    db: Database = embedded.state.backends.database
    known = permafrost("submit", str(train), "--model", json.dumps(AFFINE), "--server", socket_url).stdout.strip()
    file = json.loads(permafrost_job(socket_url, known))["training_file"]
    run(db, 0.5)
    request = tmp_path / "sweep.json"
    request.write_text(json.dumps({"job": {"model": AFFINE, "training_file": file}, "grid": {"seed": [1, 2]}}))

    def work() -> None:
        deadline = time.monotonic() + PATIENCE
        while not lifecycle.recover(db, limit=3) and time.monotonic() < deadline:  # until the jobs are there
            time.sleep(0.05)
        for _ in range(2):
            run(db, 0.5)

    worker = threading.Thread(target=work)
    worker.start()
    done = permafrost("sweep", str(request), "--watch", PERMAFROST_SERVER=socket_url)
    worker.join()
    assert done.returncode == 0, done.stderr
    assert "succeeded: 2 succeeded of 2 jobs" in done.stdout
    assert "warning: there are no validation examples" in done.stderr


def permafrost_job(url: str, job_id: str) -> str:
    import httpx2

    return httpx2.get(f"{url}/v1/fine_tuning/jobs/{job_id}").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "neither a file nor the id of a sweep"),
        (["{train}"], "--model"),
        (["{train}", "--model", "m"], "say what the jobs differ in"),
        (["{train}", "--model", "m", "--grid", "n_epochs"], "not like learning_rate=0.001,0.01"),
    ],
)
def test_what_cannot_be_a_sweep_is_a_sentence(
    permafrost: Command, socket_url: str, train: Path, arguments: list[str], message: str
) -> None:
    """Code 2, and nothing is sent."""
    given = [argument.format(train=train) for argument in arguments]
    done = permafrost("sweep", *given, PERMAFROST_SERVER=socket_url)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_refusal_names_the_field(permafrost: Command, socket_url: str, train: Path) -> None:
    """As the service says it, and code 1."""
    options = ["--model", json.dumps(AFFINE), "--grid", "learning_rate=0.1,-1", "--server", socket_url]
    done = permafrost("sweep", str(train), *options)
    assert done.returncode == 1
    assert "grid.hyperparameters.learning_rate[1]" in done.stderr and "Traceback" not in done.stderr
