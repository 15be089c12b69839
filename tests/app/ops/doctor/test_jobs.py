"""Leases, events, folders, checkpoints and expired files that the doctor finds."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, text, update
from starlette.testclient import TestClient

from app.db import now
from app.files.tables import File
from app.http.dependencies import Backends
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Checkpoint, Event, Job, ProjectUsage
from app.ops.doctor.finding import Finding
from app.ops.retention.rows import EVENTS, delete_batch
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.jobs.jobs import new_job
from tests.app.ops.doctor.services import OLD, blob_of, row_of
from tests.app.ops.retention.jobs import ended_job


def claimed(backends: Backends) -> Job:
    job, _ = lifecycle.submit(backends.database, new_job(result_files=[]))
    assert lifecycle.claim(backends.database, worker="here", seconds=60)
    return job


def test_a_stale_lease_is_taken_over(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """A lease that no worker has taken over in time: the job waits again, and the crash is counted."""
    job = claimed(backends)
    with backends.database.write() as session:
        session.execute(update(Job).values(lease_until=now(session) - timedelta(minutes=5)))
    (finding,) = look()
    assert (finding.kind, finding.object) == ("stale_lease", job.id) and "here" in finding.message
    assert row_of(backends, Job, job.id).status == "running"
    look(repair=True)
    after = row_of(backends, Job, job.id)
    assert (after.status, after.crashes, after.lease_owner) == ("queued", 1, None) and look() == []


def test_usage_that_differs_from_the_leases_is_corrected(
    backends: Backends, look: Callable[..., list[Finding]]
) -> None:
    """As a worker of an older version leaves it."""
    claimed(backends)
    assert look() == []
    with backends.database.write() as session:
        session.execute(update(ProjectUsage).values(running=5))
    (finding,) = look(repair=True)
    assert (finding.kind, finding.object, finding.open) == ("wrong_usage", "default", False)
    assert "5 devices" in finding.message and "hold 1" in finding.message
    assert look() == []


def test_leftovers_of_killed_processes(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """Temporary files, attempts that are over and half checkpoints go; what may still be at work stays."""
    waiting, _ = lifecycle.submit(backends.database, new_job(result_files=[]))
    with backends.database.write() as session:
        session.execute(update(Job).values(attempt=2))
    folder = backends.settings.work / waiting.id
    whole = checkpoint(folder / "checkpoints" / "step-00000004", b"state")
    torn = checkpoint(folder / "checkpoints" / "step-00000006", b"state")
    (torn / "state.json").write_bytes(b"st")
    for name in ("a1", "a2", "a3", "checkpoints/.step-00000008.1.tmp"):
        (folder / name).mkdir(parents=True)
    incoming = backends.storage.root / "incoming" / "tmp1"
    incoming.write_bytes(b"half")
    assert [each for each in look() if each.kind not in ("damaged_checkpoint", "checkpoint_without_row")] == []
    for path in (*folder.rglob("*"), incoming):
        os.utime(path, (time.time() - OLD,) * 2)
    found = look(repair=True)
    assert sorted(each.kind for each in found) == [
        "checkpoint_without_row",
        "damaged_checkpoint",
        "leftover_attempt",
        "leftover_attempt",
        "unfinished_checkpoint",
        "unfinished_upload",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["a3", "checkpoints"]
    assert list((folder / "checkpoints").iterdir()) == [whole] and not incoming.exists()
    with backends.database.write() as session:
        session.add(Checkpoint(id="c", job_id=waiting.id, created_at=now(session), step=4, attempt=1, metrics={}))
    assert look(deep=True) == []
    (whole / "state.json").write_bytes(b"STATE")
    assert [each.kind for each in look()] == [] and [each.kind for each in look(deep=True)] == ["damaged_checkpoint"]


def checkpoint(folder: Path, content: bytes) -> Path:
    import hashlib

    folder.mkdir(parents=True)
    (folder / "state.json").write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": {"state.json": entry}}))
    return folder


def test_folders_of_ended_jobs_go(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """A worker's maintenance removes them; where no worker is left, the doctor does."""
    job, _ = lifecycle.submit(backends.database, new_job(result_files=[]))
    lifecycle.cancel(backends.database, "default", job.id)
    folder = backends.settings.work / job.id / "checkpoints"
    folder.mkdir(parents=True)
    assert look() == []
    assert [each.kind for each in look(repair=True, older_than=0)] == ["leftover_folder"]
    assert not folder.parent.exists()


def test_expired_files_go_with_their_bytes(
    api: TestClient, backends: Backends, look: Callable[..., list[Finding]]
) -> None:
    """Not while a job that has not ended needs them; and no expired file is a fault."""
    needed, done = upload_to(api)(rows()), upload_to(api)(b"done", name="b.txt")
    assert api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": needed}).status_code == 200
    with backends.database.write() as session:
        session.execute(update(File).values(expires_at=now(session) - timedelta(days=1)))
    (note,) = look()
    assert (note.kind, note.object, note.open) == ("expired_file", done, False)
    key = blob_of(backends, done)
    look(repair=True)
    assert row_of(backends, File, done) is None and row_of(backends, File, needed) is not None
    assert [each.kind for each in look(repair=True, older_than=0)] == ["orphan_blob"]
    assert not backends.storage.exists(key)


def test_missing_events_are_told(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """Nobody can bring an event back, so it takes a person."""
    job, _ = lifecycle.submit(backends.database, new_job(result_files=[]))
    with backends.database.write() as session:
        session.execute(text("DELETE FROM job_events"))
    (finding,) = look(repair=True)
    assert (finding.kind, finding.object, finding.open) == ("lost_events", job.id, True)


def test_events_that_retention_deleted_are_not_lost(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """The first ones of a job that has ended; a gap after them, or a job that lost its events otherwise, is found."""
    db = backends.database
    ended_job(db, "ftjob-old", days=40)
    with db.write() as session:
        assert delete_batch(session, EVENTS, now(session) - timedelta(days=30)) == 5
    assert [each for each in look() if each.kind == "lost_events"] == []

    ended_job(db, "ftjob-new", days=20)
    with db.write() as session:
        session.execute(delete(Event).where(Event.job_id == "ftjob-new", Event.seq == 3))
    assert [each.object for each in look() if each.kind == "lost_events"] == ["ftjob-new"]
