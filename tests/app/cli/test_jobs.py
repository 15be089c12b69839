"""`permafrost jobs`, `show`, `logs`, `cancel`, `pause` and `resume` against a running service."""

import json
import threading
from pathlib import Path

from fastapi import FastAPI

from app.db import Database
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.logs.queries import append
from tests.app.cli.commands import Command
from tests.app.jobs.jobs import claim, finish, new_job, result


def test_jobs_are_listed_and_filtered(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """A row for each under headings; as JSON what the API says; without any, what to do."""
    db: Database = embedded.state.backends.database
    assert "permafrost submit" in permafrost("jobs", PERMAFROST_SERVER=socket_url).stderr
    for name in ("ftjob-a", "ftjob-b", "ftjob-c"):
        lifecycle.submit(db, new_job(id=name, suffix="fish" if name == "ftjob-c" else None))
    finish(db, claim(db), verdict="violated")

    lines = permafrost("jobs", PERMAFROST_SERVER=socket_url).stdout.splitlines()
    assert lines[0].split() == ["JOB", "STATUS", "EVIDENCE", "PROGRESS", "MODEL", "AGE", "NAME"]
    assert [line.split()[0] for line in lines[1:]] == ["ftjob-c", "ftjob-b", "ftjob-a"]
    assert "queued #2" in lines[1] and "fish" in lines[1]
    violated = permafrost("jobs", "--verdict", "violated", "--json", PERMAFROST_SERVER=socket_url)
    assert [job["id"] for job in json.loads(violated.stdout)] == ["ftjob-a"]
    one = permafrost("jobs", "-n", "1", "--status", "queued", PERMAFROST_SERVER=socket_url).stdout
    assert len(one.splitlines()) == 2
    none = permafrost("jobs", "--status", "failed", PERMAFROST_SERVER=socket_url)
    assert (none.returncode, none.stdout) == (0, "")
    wrong = permafrost("jobs", "--status", "green", PERMAFROST_SERVER=socket_url)
    assert wrong.returncode == 1 and "queued" in wrong.stderr


def test_all_pages_are_read(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """More jobs than a page of the API holds."""
    db: Database = embedded.state.backends.database
    for number in range(130):
        lifecycle.submit(db, new_job(id=f"ftjob-{number}"))
    shown = permafrost("jobs", "--all", "--json", PERMAFROST_SERVER=socket_url)
    assert len({job["id"] for job in json.loads(shown.stdout)}) == 130


def test_a_job_is_described(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """State, verdict and its causes, and the command that comes next."""
    db: Database = embedded.state.backends.database
    plan = {side: {"tensors": 1, "elements": 2, "bytes": 8} for side in ("frozen", "trainable")}
    lifecycle.submit(db, new_job(id="ftjob-a", freeze_plan=plan))
    lifecycle.submit(db, new_job(id="ftjob-b", alias="gpt-x", model="tiny"))
    finish(db, claim(db), verdict="violated", model=result("ftjob-a"))

    shown = permafrost("show", "ftjob-a", PERMAFROST_SERVER=socket_url).stdout
    for part in ("violated", "weight at step 1", "1 tensor, 8 B", f"{socket_url}/jobs/ftjob-a"):
        assert part in shown
    other = permafrost("show", "ftjob-b", PERMAFROST_SERVER=socket_url).stdout
    assert "gpt-x, which stands for tiny" in other
    assert "permafrost watch ftjob-b" in other
    assert json.loads(permafrost("show", "ftjob-b", "--json", PERMAFROST_SERVER=socket_url).stdout)["model"] == "gpt-x"


def test_an_unknown_job_names_the_next_command(permafrost: Command, socket_url: str) -> None:
    """One sentence and one command, exit code 1."""
    for arguments in (("show", "ftjob-x"), ("logs", "ftjob-x"), ("logs", "-f", "ftjob-x"), ("cancel", "ftjob-x")):
        done = permafrost(*arguments, PERMAFROST_SERVER=socket_url)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.splitlines()[-1] == "to see the jobs: permafrost jobs", arguments


def test_jobs_are_paused_resumed_and_cancelled(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """Several at once; what a state does not allow is refused."""
    db: Database = embedded.state.backends.database
    for name in ("ftjob-a", "ftjob-b"):
        lifecycle.submit(db, new_job(id=name))
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        done = permafrost(action, "ftjob-a", "ftjob-b", PERMAFROST_SERVER=socket_url)
        assert done.stdout.splitlines() == [f"ftjob-a {status}", f"ftjob-b {status}"], done.stderr
    refused = permafrost("resume", "ftjob-a", PERMAFROST_SERVER=socket_url)
    assert refused.returncode == 1 and "cancelled" in refused.stderr


def test_logs_are_printed_and_followed(permafrost: Command, socket_url: str, embedded: FastAPI) -> None:
    """All of them, the tail, and live to the end of the job."""
    db: Database = embedded.state.backends.database
    lifecycle.submit(db, new_job(id="ftjob-a"))
    lease = claim(db)
    with db.write() as session:
        append(session, "ftjob-a", 1, [f"line {number}" for number in range(50)])
    printed = permafrost("logs", "ftjob-a", PERMAFROST_SERVER=socket_url).stdout.splitlines()
    assert printed == [f"line {number}" for number in range(50)]
    tail = permafrost("logs", "--tail", "2", "ftjob-a", PERMAFROST_SERVER=socket_url).stdout
    assert tail.splitlines() == ["line 48", "line 49"]

    def end() -> None:
        with db.write() as session:
            append(session, "ftjob-a", 1, ["the last"])
        evidence = Evidence(job_id="ftjob-a", attempt=1, verdict="verified", frozen_tensors=1, frozen_bytes=1)
        lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence))

    later = threading.Timer(2, end)  # sooner or later, the lines are the same
    later.start()
    followed = permafrost("logs", "-f", "ftjob-a", PERMAFROST_SERVER=socket_url).stdout.splitlines()
    later.join()
    assert followed == [*printed, "the last"]


def test_a_report_is_written(permafrost: Command, socket_url: str, embedded: FastAPI, tmp_path: Path) -> None:
    """One file; none where there is no report."""
    db: Database = embedded.state.backends.database
    for name in ("ftjob-a", "ftjob-early"):
        lifecycle.submit(db, new_job(id=name))
    finish(db, claim(db), verdict="verified")
    path, other = tmp_path / "report.html", tmp_path / "early.html"
    done = permafrost("report", "ftjob-a", "-o", str(path), "--json", PERMAFROST_SERVER=socket_url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"job": "ftjob-a", "file": str(path)}
    assert "Verdict: verified" in path.read_text("utf-8")
    assert permafrost("report", "ftjob-early", "-o", str(other), PERMAFROST_SERVER=socket_url).returncode == 1
    assert not other.exists()
