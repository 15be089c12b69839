"""Secrets stay where they belong: a search through all that a service leaves behind."""

import logging

import pytest
from sqlalchemy.exc import SQLAlchemyError
from starlette.testclient import TestClient

from app.db import Database, now
from app.settings import Settings
from app.webhooks.courier import Courier
from tests.app.guarded import guard
from tests.app.jobs.jobs import new_job
from tests.app.webhooks.endpoints import cancelled_job
from tests.app.webhooks.receiver import receiver


def test_no_secret_is_left_anywhere(tmp_path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """Keys and signing secrets, right, wrong, in use, refused: in no log, error, metric, database or file."""
    caplog.set_level(logging.DEBUG)
    guarded = guard(Settings(data_dir=tmp_path / "data", webhook_allow="127.0.0.1/32"))
    headers = guarded.headers("mine")
    wrong = "pf_aaaaaaaa_" + "c0ffee" * 10 + "c0ff"
    answers = []
    with TestClient(guarded.application, base_url="http://testserver/v1/") as client, receiver(500, 200) as there:
        body = {"name": "a", "url": there.url, "event_types": ["fine_tuning.job.cancelled"]}
        made = client.post("webhook_endpoints", json=body, headers=headers).json()
        path = f"webhook_endpoints/{made['id']}"
        rotated = client.post(
            f"{path}/rotate_secret", json={"keep_old_secret_active_for_24_hours": True}, headers=headers
        ).json()
        hub = {"name": "hub", "kind": "hub", "value": "hf_projects5f3a9e"}
        answers += [client.post("secrets", json=hub | each, headers=headers).text for each in ({}, {"kind": "x"})]
        answers += [client.get(each, headers=headers).text for each in ("secrets", "secrets/hub")]
        cancelled_job(guarded.db, project="mine")
        assert Courier(guarded.db, guarded.settings).round() == 1
        paths = (path, f"{path}/deliveries", "webhook_endpoints", "audit_logs", "files/file-none")
        answers += [client.get(each, headers=headers).text for each in paths]
        answers.append(client.get("files", headers={"authorization": f"Bearer {wrong}"}).text)
        answers.append(client.post("webhook_endpoints", json={**body, "secret": wrong}, headers=headers).text)
        answers.append(client.get("http://testserver/metrics").text)
    out, err = capfd.readouterr()
    left = "\n".join([*answers, out, err, caplog.text]).encode()
    for file in (tmp_path / "data").rglob("*"):
        left += file.read_bytes() if file.is_file() and file.name != "webhooks.key" else b""
    secrets = [key[12:] for key in guarded.keys.values()] + [wrong[12:], "projects5f3a9e"]
    secrets += [each["signing_secret"].removeprefix("whsec_") for each in (made, rotated)]
    assert [secret for secret in secrets if secret.encode() in left] == []
    assert made["id"].encode() in left and b'"status": 401' in left, "the search sees the database and the logs"


def test_errors_of_the_database_hold_no_values(db: Database):
    """They end up in logs; what somebody stored does not."""
    rows = [new_job(id="same", result_files=[], suffix="canary") for _ in range(2)]
    with pytest.raises(SQLAlchemyError) as failed, db.write() as session:
        for row in rows:
            row.created_at = now(session)
            session.add(row)
            session.flush()
            session.expunge(row)
    assert "INSERT INTO jobs" in str(failed.value) and "canary" not in str(failed.value)
