"""Every change and its row in the audit log are one transaction."""

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, select
from starlette.testclient import TestClient

from app.audit.record import record_changes
from app.audit.tables import AuditLog
from app.auth.audited_action import CURRENT_ACTION, AuditedAction
from app.db import Database, now
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Job
from tests.app.audit.conftest import lines
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.guarded import Guarded
from tests.app.jobs.jobs import new_job


def test_line_and_change_are_one_transaction(db: Database):
    """A change that is rolled back takes its line with it; one that commits has its line."""
    record_changes(db)
    token = CURRENT_ACTION.set(AuditedAction(action="test", project="default", role="admin"))
    try:
        with pytest.raises(RuntimeError, match="no"), db.write() as session:
            session.add(new_job(created_at=now(session), result_files=[]))
            session.flush()
            raise RuntimeError("no")
        job, _ = lifecycle.submit(db, new_job())
    finally:
        CURRENT_ACTION.reset(token)
    lifecycle.cancel(db, "default", job.id)  # as a worker or its maintenance would: outside of any request
    with db.read() as session:
        assert [row.object_id for row in session.scalars(select(AuditLog))] == [job.id]
        assert session.scalars(select(Job.id)).all() == [job.id]


def test_a_line_that_cannot_be_written_undoes_the_change(client: TestClient, guarded: Guarded):
    """No change goes unaudited: where the log is broken, nothing is changed."""
    file = upload_to(client)(rows())
    with guarded.db.write() as session:
        session.execute(delete(AuditLog))
    AuditLog.__table__.drop(guarded.db.engine)  # type: ignore[attr-defined]
    with TestClient(guarded.application, raise_server_exceptions=False, base_url="http://testserver/v1/") as broken:
        answer = broken.delete(f"files/{file}", headers=guarded.headers("mine"))
    assert answer.status_code == 500
    AuditLog.__table__.create(guarded.db.engine)  # type: ignore[attr-defined]
    assert client.get(f"files/{file}").status_code == 200


def test_without_keys_everybody_is_nobody(embedded: FastAPI):
    """On a loopback without keys the log has the address, and no key."""
    with TestClient(embedded, base_url="http://testserver/v1/") as client:
        upload_to(client)(rows())
        (line,) = lines(client)
    assert line["actor"] == {"api_key_id": None, "name": None, "role": "admin", "ip_address": "testclient"}


def test_what_changed_nothing_leaves_no_line(client: TestClient, guarded: Guarded):
    """Reads, previews, refusals by role, by validation, by state: nothing was done, so nothing is written."""
    preview = {"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}}
    assert client.post("freeze_policies/preview", json=preview).status_code == 200
    assert client.get("files").status_code == 200
    reader = guarded.headers("mine", "reader")
    assert client.delete("files/file-none", headers=reader).status_code == 403
    assert client.delete("files/file-none").status_code == 404
    assert client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": "file-none"}).status_code == 404
    assert client.post("webhook_endpoints", json={}).status_code == 400
    job, _ = lifecycle.submit(guarded.db, new_job(project="mine", status="queued"))
    lifecycle.cancel(guarded.db, "mine", job.id)
    assert client.post(f"fine_tuning/jobs/{job.id}/pause").status_code == 409
    assert lines(client) == []
