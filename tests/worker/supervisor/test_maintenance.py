"""What a worker does besides jobs, beside any number of others who do it too."""

import os
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from app.db import new_id, now
from app.files.tables import File
from app.jobs.queue import lifecycle
from app.jobs.queue.tables import Job, Worker
from app.models.tables import Model
from tests.app.ops.retention.jobs import ended_job
from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import events_of, eventually, job_of, place_model, submit, succeeded
from worker.supervisor.describe import Describer
from worker.supervisor.devices import Slots, find_devices
from worker.supervisor.maintenance import Maintenance
from worker.supervisor.runner import Runner


class Bells:
    """A maintenance whose rings are written down."""

    def __init__(self, runner: Runner) -> None:
        self.models: list[str] = []
        runner.wake_model = self.models.append
        self.maintenance = Maintenance(runner)


def test_waiting_jobs_are_started(deployment: Deployment, runner: Runner) -> None:
    """No message and no broker is needed: every waiting job ends, on as many slots as there are."""
    runner.slots = Slots(find_devices("cpu:2"))
    jobs = [submit(deployment) for _ in range(3)]
    bells = Bells(runner)
    both = runner.slots.take(2)
    assert both is not None
    bells.maintenance.run_once()
    runner.slots.give_back(both)
    assert [job_of(deployment.db, each).attempt for each in jobs] == [0, 0, 0]
    bells.maintenance.start()
    try:
        assert [succeeded(deployment, each).attempt for each in jobs] == [1, 1, 1]
    finally:
        bells.maintenance.close()


def test_a_job_makes_room_and_goes_on(deployment: Deployment, runner: Runner) -> None:
    """On the only device: the urgent job runs meanwhile, and the other one ends afterwards, without a crash."""
    runner.settings = runner.settings.model_copy(update={"preempt": 1, "sweep_seconds": 0.2})
    runner.slots = Slots(find_devices("cpu"))
    low = submit(deployment, seed=stub_trainer.STOPPABLE)
    bells = Bells(runner)
    bells.maintenance.start()
    try:
        eventually(lambda: (job_of(deployment.db, low).progress or {}).get("step") == 1)
        high = submit(deployment, priority=1)
        first, second = succeeded(deployment, high), succeeded(deployment, low)
    finally:
        bells.maintenance.close()
    assert first.finished_at is not None and second.finished_at is not None
    assert first.finished_at < second.finished_at
    assert (second.attempt, second.crashes, second.preemptions) == (2, 0, 1)
    messages = [event.message for event in events_of(deployment.db, low)]
    assert f"Job has made room for {high}, which has priority 1; job queued again" in messages


def test_what_is_older_than_it_is_kept_is_deleted(deployment: Deployment, runner: Runner) -> None:
    """By the settings: rows of jobs that ended long ago, and results of frozen layers that no job used for long."""
    ages = {"keep_events_days": 30.0, "keep_prefixes_days": 30.0}
    runner.settings = runner.settings.model_copy(update=ages)
    ended_job(deployment.db, "ftjob-old", days=40)
    shared = runner.prefix_folders.of_project("default")
    assert shared is not None
    old = shared.folder / "old"
    old.mkdir()
    os.utime(old, (time.time() - 31 * 86_400,) * 2)
    Bells(runner).maintenance.run_once()
    assert [event.message for event in events_of(deployment.db, "ftjob-old")] == ["Job failed: as it should"]
    assert not old.exists()


def test_expired_lease_is_taken_over(deployment: Deployment, runner: Runner) -> None:
    """A job whose worker is gone waits again, after its back-off."""
    job_id = submit(deployment)
    assert lifecycle.claim(deployment.db, worker="gone", seconds=60)
    with deployment.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now(session) - timedelta(seconds=1)))
    Bells(runner).maintenance.run_once()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 1, None)


def test_thread_wakes_for_the_end_of_a_back_off(deployment: Deployment, runner: Runner) -> None:
    """A job that crashed is started when its time has come, however long the pause between sweeps is."""
    runner.settings = runner.settings.model_copy(update={"sweep_seconds": 600.0})
    job_id = submit(deployment)
    with deployment.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=now(session) + timedelta(seconds=1)))
    bells = Bells(runner)
    bells.maintenance.start()
    try:
        succeeded(deployment, job_id)
    finally:
        bells.maintenance.close()


def test_failed_round_is_followed_by_another(deployment: Deployment, runner: Runner) -> None:
    """A broker that refuses a message ends neither the thread nor the start of jobs."""
    runner.settings = runner.settings.model_copy(update={"sweep_seconds": 0.01})
    place_model(runner, "tiny")
    tries: list[str] = []

    def refuse(model_id: str) -> None:
        tries.append(model_id)
        raise ConnectionError("the broker is away")

    runner.wake_model = refuse
    maintenance = Maintenance(runner)
    maintenance.start()
    try:
        eventually(lambda: len(tries) >= 2)
        succeeded(deployment, submit(deployment))
    finally:
        maintenance.close()


def test_leftovers_of_ended_jobs_are_removed(deployment: Deployment, runner: Runner) -> None:
    """Folders of jobs that ended go; those of jobs that still wait or run, or that nobody knows of, stay."""
    alive, ended = submit(deployment), submit(deployment)
    lifecycle.cancel(deployment.db, "default", ended)
    for name in (alive, ended, "ftjob-unknown", "home"):
        (runner.settings.work / name / "a1").mkdir(parents=True)
    assert runner.slots.take()  # the waiting job is not what this is about
    Bells(runner).maintenance.run_once()
    assert sorted(path.name for path in runner.settings.work.iterdir()) == sorted([alive, "ftjob-unknown", "home"])


def test_folders_become_models(deployment: Deployment, runner: Runner) -> None:
    """A folder under PERMAFROST_MODELS_DIR is found by maintenance, read once, and then left alone."""
    place_model(runner, "tiny")
    bells = Bells(runner)
    bells.maintenance.run_once()
    assert bells.models == ["tiny"]
    describer = Describer(runner)
    for _ in range(2):
        describer.describe("tiny")
    bells.maintenance.run_once()
    assert bells.models == ["tiny"]
    with deployment.db.read() as session:
        model = session.get_one(Model, "tiny")
        assert (model.status, model.error, model.project) == ("ready", None, None)
        assert model.manifest is not None
        assert [tensor["name"] for tensor in model.manifest] == ["bias", "weight"]
        assert {tensor["name"] for tensor in model.tensors} == {"bias", "weight"}


def test_a_worker_is_alive_from_its_first_round_until_it_stops(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so between two sweeps, too, however rare they are: a waiting job's `waiting_for` depends on it."""
    monkeypatch.setattr("app.jobs.queue.workers.REGISTER_SECONDS", 0.05)
    runner.settings.sweep_seconds = 3600.0
    maintenance = Bells(runner).maintenance

    def seen_at() -> datetime | None:
        with deployment.db.read() as session:
            worker = session.get(Worker, runner.worker)
            return worker.seen_at if worker is not None else None

    maintenance.start()
    try:
        eventually(lambda: seen_at() is not None)
        first = seen_at()
        eventually(lambda: seen_at() != first)
    finally:
        maintenance.close()
    assert seen_at() is None


@pytest.mark.parametrize("referred", [False, True])
def test_deletions_that_waited_are_made(runner: Runner, referred: bool) -> None:
    """Bytes that were stored twice within the hour go with the first round after it, unless a row refers to them."""
    storage = runner.storage
    for _ in range(2):
        with storage.writer() as writer:
            writer.write(b"stored twice")
    key = writer.blob.key
    assert storage.root is not None and not storage.delete(key)
    maintenance = Maintenance(runner)
    maintenance.run_once()
    assert storage.exists(key)
    if referred:
        with runner.db.write() as session:
            row = File(id=new_id("file"), project="mine", created_at=now(session), filename="a", purpose="fine-tune")
            row.bytes, row.sha256, row.blob, row.status = writer.blob.size, writer.blob.sha256, key, "processed"
            session.add(row)

    hour_ago = time.time() - 3601
    for mark in ("again", "unused"):
        os.utime(storage.root / mark / key, (hour_ago, hour_ago))
    maintenance.run_once()
    assert (storage.exists(key), list(storage.deletions_due())) == (referred, [])
