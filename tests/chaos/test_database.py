"""The database away, silent, or answering a commit with an error; clocks that lie; another version of the tables."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, end, eventually
from tests.chaos.runs import Gates, in_a_step, new_gates, order
from tests.chaos.servers import Wire
from tests.end_to_end.conftest import ROOT
from tests.worker.processes import gone


@pytest.fixture
def wire(cluster: Cluster) -> Iterator[Wire]:
    """Between the only worker and PostgreSQL; the API has its own way there."""
    wire = Wire(cluster.postgres.url)
    cluster.replace_worker(PERMAFROST_DATABASE_URL=wire.url)
    yield wire
    for each in cluster.workers:  # before its way to the database goes
        end(each)
    wire.close()


@pytest.mark.fault(10)
def test_database_away_for_longer_than_a_lease(cluster: Cluster, gates: Gates) -> None:
    """The worker ends its trainer before anyone else could start one, and goes on when the database is back."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    trainers = cluster.trainers(caught.job_id)
    cluster.postgres.kill()
    eventually(caught.has_been_told, says=cluster.log)
    caught.go_on()
    eventually(lambda: gone(trainers))
    cluster.postgres.start()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    job = cluster.row(caught.job_id)
    assert (job.attempt, job.crashes) == (2, 1), cluster.story(caught.job_id)


@pytest.mark.fault(17)
def test_heartbeats_do_not_get_through(cluster: Cluster, gates: Gates, wire: Wire) -> None:
    """The database is silent to one worker alone: its trainer is gone when the job is taken over by another one."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    trainers = cluster.trainers(caught.job_id)
    gates.close("a2-step-1")
    wire.silent.set()
    cluster.add_worker()
    gates.reached("a2-step-1", says=lambda: cluster.story(caught.job_id))
    assert gone(trainers)
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    wire.silent.clear()
    assert cluster.row(caught.job_id).attempt == 2


@pytest.mark.fault(11)
@pytest.mark.parametrize("words", [b"Job started", b"Job succeeded"], ids=["claim", "finish"])
def test_executed_and_answered_with_an_error(cluster: Cluster, gates: Gates, wire: Wire, words: bytes) -> None:
    """The commit is done and its answer lost: it counts once, is told once, and nothing is run again."""
    ambush = wire.lay(words, when="after", then="cut")
    job_id = cluster.submit(order(cluster, gates))
    assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)
    assert ambush.sprung.is_set()
    assert len(cluster.said(job_id, words.decode())) == 1
    job = cluster.row(job_id)
    assert (job.attempt, job.crashes) == (1, 0), cluster.story(job_id)


@pytest.mark.fault(18)
@pytest.mark.parametrize("minutes", ["-10", "10", "jumping"])
def test_clocks_that_lie(cluster: Cluster, gates: Gates, minutes: str) -> None:
    """A worker ten minutes off, or here and there: it keeps its job, and does not take one that another one holds."""
    cluster.add_worker("tests.chaos.skewed_worker", PERMAFROST_TEST_SKEW=minutes)
    with new_gates(cluster) as others:
        jobs = []
        for each in (gates, others):  # a device for each, so one of them gets the wrong clock
            each.close("step-18")
            jobs.append(cluster.submit(order(cluster, each)))
            each.reached("step-18", says=cluster.log)
        _both_end(cluster, jobs, [gates, others])


def _both_end(cluster: Cluster, jobs: list[str], gates: list[Gates]) -> None:
    before = [cluster.row(job_id).lease_until for job_id in jobs]
    # Every lease has been extended, so both clocks have had a round of maintenance and a heartbeat to be wrong at.
    for job_id, lease_until in zip(jobs, before, strict=True):
        eventually(lambda job_id=job_id, at=lease_until: (cluster.row(job_id).lease_until or at) > at)  # type: ignore[misc]
    for each in gates:
        each.open_all()
    for job_id in jobs:
        assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)
        assert (cluster.row(job_id).attempt, cluster.row(job_id).crashes) == (1, 0)


@pytest.mark.fault(28)
def test_migration_while_running(cluster: Cluster, gates: Gates, tmp_path: Path) -> None:
    """A newer version migrates and starts beside the running one: beats, claims and ends work on both sides."""
    newer = _newer_version(tmp_path / "newer")
    caught = in_a_step(cluster, gates)
    assert caught is not None
    try:
        cluster.migrate(cwd=newer)
        with new_gates(cluster) as open_gates:
            waiting = cluster.submit(order(cluster, open_gates))
        running = cluster.start_worker(cwd=newer)
        # The older worker has one device, and stands at a gate with it.
        assert cluster.ended(waiting)["status"] == "succeeded", cluster.story(waiting)
        caught.go_on()
        assert cluster.ended(caught.job_id)["attempts"] == 1, cluster.story(caught.job_id)
        running.stop()
        last = cluster.submit(order(cluster, gates))
        assert cluster.ended(last)["attempts"] == 1, cluster.story(last)
    finally:
        _take_back(cluster, newer)


def _newer_version(folder: Path) -> Path:
    """This code with one revision more: a column, which its own tables know, and an index."""
    for name in ("app", "worker", "migrations", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    tables = folder / "app" / "jobs" / "queue" / "tables.py"
    marker = "    id: Mapped[str] = mapped_column(String(64), primary_key=True)\n"
    source = tables.read_text()
    assert marker in source
    tables.write_text(source.replace(marker, f"{marker}    colour: Mapped[str | None]\n", 1))
    head = max((folder / "migrations" / "versions").glob("r*.py")).name[1:5]
    (folder / "migrations" / "versions" / "r9999_colour.py").write_text(REVISION.format(head=head))
    return folder


def _take_back(cluster: Cluster, newer: Path) -> None:
    inherited = {"PATH": "/usr/bin:/bin", **cluster.environment}
    command = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "downgrade", "-1"]
    subprocess.run(command, cwd=newer, env=inherited, check=True)


REVISION = '''
"""A colour."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("colour", sa.String(), nullable=True))
    op.create_index("ix_jobs_colour", "jobs", ["colour"])


def downgrade() -> None:
    op.drop_index("ix_jobs_colour", "jobs")
    op.drop_column("jobs", "colour")
'''
