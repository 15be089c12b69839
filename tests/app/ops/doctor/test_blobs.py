"""Orphaned, missing and damaged blobs: found, left alone without --repair, and repaired with it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.db import new_id, now
from app.evidence.transparency.journal import load_key
from app.files.tables import File
from app.http.dependencies import Backends
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Job
from app.ops.doctor.command import examine
from app.ops.doctor.finding import Finding
from app.storage.blobs import Storage
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.jobs.jobs import new_job
from tests.app.ops.doctor.services import OLD, aged, blob_of, kinds, put
from worker.supervisor import bases


def test_a_service_in_order_has_no_findings(api: TestClient, look: Callable[..., list[Finding]]) -> None:
    """Uploads and jobs leave nothing that disagrees, however hard one looks."""
    file = upload_to(api)(rows())
    assert api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).status_code == 200
    assert look(deep=True, older_than=0) == []


def test_orphans_go_into_quarantine_and_come_back(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """Bytes that no row names: told, then set aside; a row that comes after all gets them back."""
    storage = backends.storage
    key = put(storage, b"of a job that was cancelled at the last moment")
    (storage.root / "sha256" / "notes.txt").write_text("not a blob")
    aged(storage, "sha256/notes.txt")
    found = look()
    assert kinds(found) == [("stray_file", "sha256/notes.txt"), ("orphan_blob", key)] or kinds(found) == [
        ("orphan_blob", key),
        ("stray_file", "sha256/notes.txt"),
    ]
    assert storage.exists(key) and all(each.open and each.remedy for each in found)
    assert all(each.done for each in look(repair=True))
    assert not storage.exists(key) and look() == []
    with backends.database.write() as session:
        session.add(file_row(now(session), key))
    (missing,) = look()
    assert (missing.kind, missing.object) == ("missing_blob", key) and "quarantine" in str(missing.remedy)
    assert [each.open for each in look(repair=True)] == [False]
    assert storage.exists(key) and look(deep=True) == []


def file_row(at: Any, key: str) -> File:
    row = File(
        id=new_id("file"), project="default", created_at=at, filename="a", purpose="fine-tune", status="processed"
    )
    row.bytes, row.sha256, row.blob, row.expires_at = 46, key[-64:], key, None
    return row


def test_bytes_that_are_still_on_their_way_are_left_alone(
    backends: Backends, look: Callable[..., list[Finding]]
) -> None:
    """While a job runs its result may be stored already and its row not: noted, and not touched for an hour."""
    claimed(backends)
    key = put(backends.storage, b"a result", age=60)
    (note,) = look(repair=True)
    assert (note.kind, note.level, note.done) == ("orphan_blob", "note", None)
    assert backends.storage.exists(key)
    aged(backends.storage, key)
    assert [each.done for each in look(repair=True)] == [f"moved to quarantine/{key}"]


def test_a_row_that_comes_while_the_doctor_works_keeps_its_bytes(
    backends: Backends, look: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look under the moved bytes: they are put back."""
    key = put(backends.storage, b"late")
    real = Storage.quarantine

    def with_a_row(self: Storage, asked: str) -> None:
        real(self, asked)
        with backends.database.write() as session:
            row = file_row(now(session), key)
            row.bytes = 4
            session.add(row)

    monkeypatch.setattr(Storage, "quarantine", with_a_row)
    (finding,) = look(repair=True)
    assert "moved back" in str(finding.done)
    assert backends.storage.exists(key) and look(deep=True) == []


def claimed(backends: Backends) -> Job:
    job, _ = lifecycle.submit(backends.database, new_job(result_files=[]))
    assert lifecycle.claim(backends.database, worker="here", seconds=60)
    return job


def test_a_base_is_stored_again_from_the_models_folder(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """Bases are copies: their files are taken from where they were first read, when those are still the same bytes."""
    folder = backends.settings.models / "tiny"
    copy_of_affine(folder)
    model = bases.register(backends.database, backends.storage, folder, model_id="tiny")
    weights = next(each["blob"] for each in model.files if each["name"] == "model.safetensors")
    load_key(backends.settings.log_key_path)
    look(repair=True)  # no worker runs here that would sign the log's entry about the base
    for damage in ("removed", "flipped"):
        path = backends.storage.root / weights
        if damage == "removed":
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(content)
            assert look(older_than=0) == [], "one flipped bit has no other size: only --deep sees it"
        (finding,) = look(repair=True, deep=True)
        assert "stored again" in str(finding.done), finding
        assert look(deep=True, older_than=0) == []


def copy_of_affine(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_damaged_bytes_are_named_and_never_served(
    api: TestClient, backends: Backends, look: Callable[..., list[Finding]], damage: str
) -> None:
    """A torn blob is seen at once, a flipped bit with --deep; both name the digest and who needs it."""
    file = upload_to(api)(b"precious", name="a.txt")
    key = blob_of(backends, file)
    path = backends.storage.root / key
    path.chmod(0o644)
    path.write_bytes(b"precioux" if damage == "flipped" else b"pre")
    assert bool(look()) == (damage == "torn")
    (finding,) = look(repair=True, deep=True)
    assert (finding.kind, finding.object) == ("damaged_blob", key) and file in finding.message
    look(repair=True)
    assert api.get(f"files/{file}").json()["status"] == "error"
    assert api.get(f"files/{file}/content").status_code == 404


def test_an_older_database_beside_newer_blobs(
    api: TestClient, backends: Backends, look: Callable[..., list[Finding]]
) -> None:
    """Files of rows that a restored database does not know are set aside, and the folder of an unknown job, too."""
    old = upload_to(api)(b"before the backup", name="a.txt")
    new = upload_to(api)(b"after the backup", name="b.txt")
    key, kept = aged(backends.storage, blob_of(backends, new)), blob_of(backends, old)
    with backends.database.write() as session:
        session.execute(text("DELETE FROM files WHERE id = :id"), {"id": new})
    folder = backends.settings.work / "ftjob-unknown" / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parent.parent):
        os.utime(path, (time.time() - OLD,) * 2)
    found = look(repair=True)
    assert sorted(each.kind for each in found) == ["orphan_blob", "unknown_job_folder"]
    assert backends.storage.exists(kept) and not backends.storage.exists(key)
    (aside,) = (backends.settings.work / "quarantine").iterdir()
    assert (aside / "checkpoints" / "step-00000002").is_dir() and look() == []


def test_quarantine_is_emptied_on_request(backends: Backends, look: Callable[..., list[Finding]]) -> None:
    """After so many days, and only with --repair."""
    put(backends.storage, b"nobody's")
    look(repair=True)
    (quarantined,) = backends.storage.quarantined()
    aged(backends.storage, quarantined.key, 10 * 86_400)
    look(purge=11, repair=True)
    look(purge=7)
    assert list(backends.storage.quarantined())
    assert [each.done for each in look(purge=7, repair=True)] == ["deleted"]
    assert list(backends.storage.quarantined()) == []


def test_an_object_store_is_looked_after_too(backends: Backends, request: pytest.FixtureRequest) -> None:
    """Orphans and missing objects by the same rules, where blobs are not files."""
    settings = backends.settings.model_copy(update={"storage_url": f"memory://{request.node.name}"})
    storage = Storage(settings.storage)
    with storage.writer() as writer:
        writer.write(b"orphan")
    (finding,) = examine(settings, repair=True, older_than=0)
    assert finding.done and not storage.exists(writer.blob.key)
    with backends.database.write() as session:
        row = file_row(now(session), writer.blob.key)
        row.bytes = 6
        session.add(row)
    assert [each.done for each in examine(settings, repair=True)] == ["moved back from quarantine"]
    assert examine(settings, deep=True) == []
