"""The worker as a process: rung through the broker, killed, stopped, doubled. Its trainers need no torch."""

import signal
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from app.broker.celery import make_celery, wake
from app.evidence.format.keys import generate
from app.settings import Settings
from tests.conftest import Deployment
from tests.patience import PATIENCE
from tests.worker.processes import gone, worker
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import events_of, eventually, expire, job_of, submit, succeeded
from worker.tasks import make_worker

SLOW_SWEEP = {"PERMAFROST_SWEEP_SECONDS": "600"}


def test_ring_starts_a_job(deployment: Deployment) -> None:
    """A message through the broker is enough; maintenance is not needed."""
    with worker(deployment, **SLOW_SWEEP):
        job_id = submit(deployment)
        wake(make_celery(deployment.settings), job_id)
        succeeded(deployment, job_id)


@pytest.mark.chaos
def test_sweep_starts_a_job_whose_ring_was_lost(deployment: Deployment) -> None:
    """Nobody rings, and the job is found all the same."""
    with worker(deployment):
        job_id = submit(deployment)
        succeeded(deployment, job_id)


def test_jobs_from_before_the_start_are_found(deployment: Deployment) -> None:
    """A worker sweeps as soon as it starts."""
    job_id = submit(deployment)
    with worker(deployment, **SLOW_SWEEP):
        succeeded(deployment, job_id)


@pytest.mark.chaos
def test_many_rings_claim_once(deployment: Deployment) -> None:
    """Repeated, unknown and newer messages start nothing twice and break nothing."""
    celery = make_celery(deployment.settings)
    with worker(deployment, **SLOW_SWEEP):
        job_id = submit(deployment)
        for _ in range(20):
            wake(celery, job_id)
        wake(celery, "ftjob-unknown")
        celery.send_task("permafrost.run_job", kwargs={"job_id": job_id, "v": 99, "colour": "blue"})
        celery.send_task("permafrost.no_such_task", args=[1])
        succeeded(deployment, job_id)
        last = submit(deployment)
        wake(celery, last)
        succeeded(deployment, last)
    assert [job_of(deployment.db, each).attempt for each in (job_id, last)] == [1, 1]
    assert [event.message for event in events_of(deployment.db, job_id)].count("Job started") == 1


def test_nonsense_from_the_broker_ends_nothing(deployment: Deployment) -> None:
    """Bytes that are no message, and a message that says nothing: the worker goes on, and hears the next wake."""
    with worker(deployment, **SLOW_SWEEP) as process:
        for content in (b"not a message", b'{"body": 7}'):
            put_into_broker(deployment, content)
        eventually(lambda: any("started again" in line for line in process.lines))
        job_id = submit(deployment)
        wake(make_celery(deployment.settings), job_id)
        succeeded(deployment, job_id)
        assert process.popen.poll() is None


def put_into_broker(deployment: Deployment, content: bytes) -> None:
    if deployment.settings.embedded:
        folder = Path(deployment.settings.broker.removeprefix("filesystem://")) / "messages"
        (folder / f"0_{uuid4()}.permafrost.msg").write_bytes(content)
        return
    with redis.Redis.from_url(deployment.settings.broker) as connection:
        connection.lpush("permafrost", content)


@pytest.mark.slow
def test_two_workers_share_the_jobs(deployment: Deployment) -> None:
    """Every job ends once, whoever runs it."""
    with worker(deployment), worker(deployment):
        jobs = [submit(deployment) for _ in range(6)]
        assert [succeeded(deployment, each).attempt for each in jobs] == [1] * 6


@pytest.mark.chaos
def test_killed_trainer_is_tried_again(deployment: Deployment) -> None:
    """kill -9 of a trainer: a crash on the record, then success in the next attempt."""
    with worker(deployment):
        job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
        succeeded(deployment, job_id)
    job = job_of(deployment.db, job_id)
    assert (job.attempt, job.crashes) == (2, 1)


@pytest.mark.chaos
def test_killed_worker_is_replaced(deployment: Deployment) -> None:
    """kill -9 of a worker: trainer and forkserver go with it, and another worker takes the job over."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    with worker(deployment, module="tests.worker.hanging_stub_worker") as first:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        family = first.family()
        assert first.trainers()
        first.popen.kill()
        eventually(lambda: gone(family))
    assert job_of(deployment.db, job_id).status == "running"
    expire(deployment.db, job_id)
    with worker(deployment):
        succeeded(deployment, job_id)
    job = job_of(deployment.db, job_id)
    # The lost worker, and the crash that this trainer has in it.
    assert job.crashes == job.attempt - 1
    assert "its worker stopped answering" in " ".join(event.message for event in events_of(deployment.db, job_id))


@pytest.mark.chaos
def test_stopped_worker_is_fenced_off(deployment: Deployment) -> None:
    """A worker that slept through its lease wakes up, finds the job gone, and ends its trainer."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with worker(deployment) as first:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        first.popen.send_signal(signal.SIGSTOP)
        sleeping = first.trainers()
        assert sleeping
        # Its trainer is alone now and hears nobody; the job goes to the second worker.
        (deployment.settings.work / job_id / "checkpoints" / "stopped").touch()
        expire(deployment.db, job_id)
        with worker(deployment):
            succeeded(deployment, job_id)
            first.popen.send_signal(signal.SIGCONT)
            eventually(lambda: gone(sleeping))
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_drains(deployment: Deployment, number: signal.Signals) -> None:
    """A stopped worker lets its trainer save, gives the job back, ends with code 0, and the next worker goes on."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with worker(deployment) as first:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        family = first.family()
        first.popen.send_signal(number)
        assert first.popen.wait(PATIENCE) == 0, "\n".join(first.lines)
        eventually(lambda: gone(family))
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 0)
    with worker(deployment):
        succeeded(deployment, job_id)


@pytest.mark.chaos
def test_cancel_reaches_a_hanging_trainer(deployment: Deployment) -> None:
    """The worker sees the cancelled job, kills what hangs, and takes the next job."""
    from app.jobs.queue import lifecycle

    with worker(deployment, PERMAFROST_GRACE_SECONDS="0.5") as process:
        hanging = submit(deployment, seed=stub_trainer.DEAF)
        eventually(lambda: (job_of(deployment.db, hanging).progress or {}).get("step") == 1)
        trainers = process.trainers()
        assert trainers
        lifecycle.cancel(deployment.db, "default", hanging)
        eventually(lambda: gone(trainers))
        healthy = submit(deployment)
        succeeded(deployment, healthy)


def test_signing_key_is_private(deployment: Deployment) -> None:
    """The embedded default key is made on first start, readable by its owner alone."""
    with worker(deployment):
        path = deployment.settings.signing_key_path
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_worker_whose_signer_does_not_sign_does_not_start(tmp_path: Path) -> None:
    """It says so at once, and not at the end of the first job."""
    settings = Settings(data_dir=tmp_path, signing_key=tmp_path / "signing.key", signer="false")
    with pytest.raises(SystemExit, match=r"no evidence can be signed: .* needs the public half"):
        make_worker(settings)
    (tmp_path / "signing.pub").write_text(generate().public_pem)
    with pytest.raises(SystemExit, match=r"no evidence can be signed: .* ended with code 1"):
        make_worker(settings)
