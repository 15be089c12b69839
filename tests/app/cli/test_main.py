"""The `permafrost` command as a person or a supervisor of processes uses it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from tests.app.conftest import AFFINE, rows
from tests.app.jobs.test_routes import claim, finish

ROOT = Path(__file__).parents[3]
PROBE = """
import sys
sys.argv = ["permafrost", "verify", "--help"]
import app.cli.main
try:
    app.cli.main.main()
except SystemExit:
    print("LOADED", *{name.partition(".")[0] for name in sys.modules})
"""
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PERMAFROST_DATA_DIR": str(tmp_path / "data"), "PERMAFROST_PORT": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def permafrost(environment: dict[str, str]) -> Command:
    """Runs one command to its end."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli.main", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture
def serving(environment: dict[str, str]) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts `permafrost serve` and returns it with its base URL, once it says that it is ready."""
    started: list[subprocess.Popen[str]] = []

    def serve(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "app.cli.main", "serve", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("permafrost ready"))
        match = re.search(r"(http://\S+)/v1", line)
        assert match is not None
        return process, match[1]

    yield serve
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_serve_makes_its_tables_answers_and_stops(
    serving: Callable[..., tuple[subprocess.Popen[str], str]], by: int
) -> None:
    """Ready means ready; a signal ends it with code 0, also while a stream is open."""
    process, url = serving("--no-worker")
    assert httpx2.get(f"{url}/readyz").json()["status"] == "ready"
    with httpx2.Client(base_url=f"{url}/v1/") as client:
        content = "\n".join(map(json.dumps, rows())).encode()
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", content)}}
        file = client.post("files", **form).json()["id"]
        job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).json()["id"]
        with client.stream("GET", f"fine_tuning/jobs/{job}/events?stream=true") as stream:
            next(stream.iter_bytes())
            process.send_signal(by)
            assert process.wait(30) == 0


@pytest.mark.slow
def test_serve_brings_a_worker_and_takes_it_along(
    serving: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    """The worker is a child; killed, it comes back; when serve stops, nothing of it is left."""
    process, _ = serving()

    def worker() -> psutil.Process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for child in psutil.Process(process.pid).children():
                if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[1:] == ["-P", "-m", "worker"]:
                    return child
            time.sleep(0.1)
        raise AssertionError("no worker was started")

    first = worker()
    first.kill()
    first.wait(10)
    second = worker()
    assert second.pid != first.pid
    assert process.stdout is not None
    assert any("permafrost worker ready" in line for line in process.stdout)
    left = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(60) == 0
    assert psutil.wait_procs(left, timeout=5)[1] == []


@pytest.mark.slow
def test_a_serve_that_is_killed_leaves_no_worker(
    serving: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    """kill -9 of the parent reaches the worker through the kernel."""
    process, _ = serving()
    assert process.stdout is not None
    assert any("permafrost worker ready" in line for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_serve_on_a_port_that_is_taken_fails(permafrost: Command) -> None:
    """With the reason, and without a worker left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = permafrost("serve", "--no-worker", PERMAFROST_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_wrong_setting_is_a_sentence(permafrost: Command) -> None:
    """The variable by its name, and no traceback."""
    done = permafrost("migrate", PERMAFROST_PORT="no number")
    assert done.returncode == 1
    assert "PERMAFROST_PORT" in done.stderr
    assert "Traceback" not in done.stderr


AWAY = "postgresql://u:secret@127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("command", "variables", "wanted"),
    [
        (["submit", __file__, "--model", "affine"], {"PERMAFROST_PORT": "abc"}, "PERMAFROST_PORT"),
        (["migrate"], {"PERMAFROST_DATABASE_URL": "bogus://x"}, "write postgresql://"),
        (["serve", "--no-worker"], {"PERMAFROST_DATABASE_URL": AWAY}, "refused"),
        (["keys", "list"], {"PERMAFROST_DATA_DIR": "/etc/hostname"}, "has to be a folder"),
        (["worker"], {"PERMAFROST_DEVICES": "tpu"}, "PERMAFROST_DEVICES=tpu"),
        (["worker"], {}, "no tables yet: run `permafrost migrate`"),
    ],
)
def test_what_an_operator_got_wrong_is_a_sentence(
    permafrost: Command, command: list[str], variables: dict[str, str], wanted: str
) -> None:
    """Code 1, what it was, and neither a traceback nor a password."""
    done = permafrost(*command, **variables)
    assert done.returncode == 1
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--model", "{bad"], "not JSON"),
        (["--model", "affine", "--policy", "bert.**"], """'{"freeze": ["bert.**"]}'"""),
        (["--model", "affine", "--policy", "@none.json"], "none.json: No such file"),
        (["--model", "affine", "--server", "localhost:8000"], "such as http://127.0.0.1:8000"),
    ],
)
def test_a_wrong_option_is_named(permafrost: Command, options: list[str], wanted: str) -> None:
    """Code 2, as for every mistake on the command line."""
    done = permafrost("submit", __file__, *options)
    assert done.returncode == 2
    assert options[-2] in done.stderr
    assert wanted in done.stderr


def test_a_worker_does_not_start_on_older_tables(permafrost: Command, tmp_path: Path) -> None:
    """It says which version they have; tables of a newer version are no obstacle."""
    from migrations.upgrade import shortfall, upgrade

    url = f"sqlite:///{tmp_path / 'old.db'}"
    upgrade(url, "0001")
    done = permafrost("worker", PERMAFROST_DATABASE_URL=url)
    assert done.returncode == 1
    assert "the tables are at version 0001" in done.stderr
    db = Database(url)
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert shortfall(session.connection()) is None
    db.close()


def test_no_keys_yet_says_how_to_make_one(permafrost: Command) -> None:
    """Instead of an empty table."""
    assert "permafrost keys create" in permafrost("keys", "list").stderr


def test_migrate_twice_changes_nothing(permafrost: Command) -> None:
    """It says which version the tables have."""
    first, second = permafrost("migrate"), permafrost("migrate")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert "the database tables are at version" in first.stdout


def test_doctor_says_what_is_missing_and_what_would_help(permafrost: Command) -> None:
    """A line per check; code 1 until the tables are there."""
    before = permafrost("doctor")
    assert before.returncode == 1
    assert re.search(r"FAIL {2}database: .*permafrost migrate", before.stdout)
    permafrost("migrate")
    after = permafrost("doctor")
    assert after.returncode == 0, after.stdout
    assert [line.split()[0] for line in after.stdout.splitlines()] == ["ok"] * 7


def test_doctor_reports_a_broker_that_is_away(permafrost: Command) -> None:
    """The other checks are made all the same."""
    done = permafrost("doctor", PERMAFROST_BROKER_URL="redis://127.0.0.1:1")
    assert re.search(r"FAIL {2}broker: redis://127.0.0.1:1: .*refused", done.stdout)
    assert len(done.stdout.splitlines()) == 7


def test_doctor_misses_a_models_folder_that_was_named(permafrost: Command, tmp_path: Path) -> None:
    """The default one is made when it is needed; one that was named and is not there is a mistake."""
    done = permafrost("doctor", PERMAFROST_MODELS_DIR=str(tmp_path / "none"))
    assert re.search(r"FAIL {2}models: .*none is not a folder", done.stdout)


def test_verify_starts_without_the_rest() -> None:
    """An auditor's command loads no web framework, database or terminal toolkit."""
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "cryptography" in loaded
    assert loaded.isdisjoint({"typer", "rich", "fastapi", "sqlalchemy", "pydantic", "celery", "numpy"})


def test_verify_says_by_its_code_that_it_could_not_check(permafrost: Command, tmp_path: Path) -> None:
    """2, as documented: neither verified nor rejected."""
    missing = str(tmp_path / "none.json")
    done = permafrost("verify", missing, "--key", missing, "--result", str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr


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
    shown = permafrost("preview", "--model", json.dumps(AFFINE), "--policy", policy, "--server", socket_url)
    assert shown.returncode == 0
    assert re.search(r"weight.*freeze", shown.stdout)
    assert "frozen: 1 tensor, 2 elements" in shown.stdout


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
    assert lines[-3:] == ["failed, evidence incomplete", "1 problem [/bold]", "  line 7: x is [/red]"]
    assert set(lines[:-3]) <= {"queued, position 1", "running"}


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
