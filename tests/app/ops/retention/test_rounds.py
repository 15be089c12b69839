"""Rounds of retention: only what the settings name, for so long, and never the evidence."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.db import Database, now
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from app.jobs.queue.tables import Event, Job
from app.models.tables import Model
from app.ops.retention import rounds
from app.ops.retention.rounds import enforce
from app.storage.blobs import Storage
from tests.app.jobs.jobs import claim, finish, new_job
from tests.app.jobs.queue.test_checkpoints import saved
from tests.app.ops.retention.jobs import ended_job
from tests.conftest import Deployment

AGES = {"keep_events_days": 30.0, "keep_logs_days": 30.0, "keep_points_days": 30.0, "keep_checkpoints_days": 30.0}


def test_nothing_is_deleted_by_default(deployment: Deployment) -> None:
    """Each age is a setting of its own, and none is set."""
    ended_job(deployment.db, "old", days=4_000)
    assert not enforce(deployment.db, Storage(deployment.settings.storage), deployment.settings)


@pytest.mark.parametrize("setting", AGES)
def test_each_setting_is_for_its_kind(deployment: Deployment, setting: str) -> None:
    """What a round deleted is counted by kind."""
    db = deployment.db
    ended_job(db, "old", days=40, count=30)
    with_checkpoint(db)
    settings = deployment.settings.model_copy(update={setting: 30.0})
    deleted = enforce(db, Storage(settings.storage), settings)
    assert list(deleted) == [setting.split("_")[1]]


def test_evidence_stays(deployment: Deployment) -> None:
    """Everything that may go goes, and the job, its evidence and its model are as they were."""
    db = deployment.db
    with_checkpoint(db)
    settings = deployment.settings.model_copy(update=AGES)
    with db.read() as session:
        envelope = session.get_one(Evidence, "ftjob-trains").envelope
    storage = Storage(settings.storage)
    assert enforce(db, storage, settings)["checkpoints"] == 3
    with db.read() as session:
        assert session.get_one(Evidence, "ftjob-trains").envelope == envelope
        assert session.get_one(Job, "ftjob-trains").status == "succeeded"
        assert session.get_one(Model, "ft:x:ckpt-step-1").error == (
            "checkpoints are kept for 30 days after the end of their job"
        )
    assert not enforce(db, storage, settings)


def test_a_round_ends_when_its_time_is_over(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one goes on where it stopped."""
    db = deployment.db
    monkeypatch.setattr("app.ops.retention.rows.ROWS", 2)
    ended_job(db, "old", days=40, count=30)
    settings = deployment.settings.model_copy(update={"keep_events_days": 30.0})
    storage = Storage(settings.storage)
    assert not enforce(db, storage, settings, seconds=0.0)
    total = 0
    while deleted := enforce(db, storage, settings, seconds=0.001):
        assert deleted["events"] <= 2
        total += deleted["events"]
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 1
    assert total == 32
    assert rounds.SECONDS < 20.0  # below the time in which a worker must say that it is alive


def with_checkpoint(db: Database) -> None:
    """A job that ended well forty days ago, with evidence and three checkpoints."""
    lifecycle.submit(db, new_job(id="ftjob-trains"))
    lease = claim(db)
    lifecycle.beat(db, lease, AttemptUpdates(checkpoints=[saved(step) for step in (1, 2, 3)]))
    finish(db, lease)
    with db.write() as session:
        session.execute(update(Job).values(finished_at=now(session) - timedelta(days=40)))
