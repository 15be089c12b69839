"""One job in a worker, from claim to the last transaction, with a trainer that needs no torch."""

import json
import threading
from typing import Any

import psutil
import pytest
import structlog
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from app.http.telemetry import configure_logs
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Outcome
from app.jobs.queue.tables import Job
from app.logs.queries import read as read_log
from tests.conftest import Deployment
from tests.living import command_of
from tests.patience import PATIENCE
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import Later, events_of, eventually, expire, job_of, make_runner, place_model, submit
from worker.supervisor import bases, lease
from worker.supervisor.log_shipping import LogShipper
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner


def test_nothing_is_left_behind(deployment: Deployment, runner: Runner) -> None:
    """After the end of a job neither its folder nor a process of it exists."""
    job_id = submit(deployment)
    runner.run_next()
    assert not (runner.settings.work / job_id).exists()
    assert not [each for each in psutil.Process().children(recursive=True) if job_id in " ".join(command_of(each))]


def test_exception_of_the_supervisor_is_tried_once_more(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that depends on the job comes again: after the second time the job fails, and the worker goes on."""

    def conclude(*_: Any) -> Outcome:
        raise KeyError("a name that is missing")

    monkeypatch.setattr("worker.supervisor.results.conclude", conclude)
    job_id = submit(deployment)
    for _ in range(2):
        eventually(runner.run_next)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt) == ("failed", 2)
    assert job.error is not None and "KeyError: 'a name that is missing'" in job.error["message"]
    monkeypatch.undo()
    healthy = submit(deployment)
    runner.run_next()
    assert job_of(deployment.db, healthy).status == "succeeded"


def test_second_attempt_finds_the_first_ones_checkpoints(deployment: Deployment, runner: Runner) -> None:
    """Checkpoints lie beside the attempts: what the first one saved, the second one reads."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    runner.run_next()
    eventually(runner.run_next)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 2, 1)


@pytest.mark.parametrize("habit", [stub_trainer.HANG, stub_trainer.DEAF])
def test_cancel_ends_a_hanging_trainer(deployment: Deployment, forkserver: Forkserver, habit: int) -> None:
    """Cancelled at once in the database; the trainer is gone within the grace, deaf or not, and leaves no folder."""
    runner = make_runner(deployment, forkserver, grace_seconds=0.3)
    job_id = submit(deployment, seed=habit)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        lifecycle.cancel(deployment.db, "default", job_id)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert job_of(deployment.db, job_id).status == "cancelled"
    assert not (runner.settings.work / job_id).exists()


def test_pause_saves_and_resume_goes_on(deployment: Deployment, runner: Runner) -> None:
    """A paused job gives its device back after a checkpoint; resumed, it ends in the next attempt."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        lifecycle.pause(deployment.db, "default", job_id)
        thread.join(PATIENCE)
    assert job_of(deployment.db, job_id).status == "paused"
    assert not runner.run_next()
    lifecycle.resume(deployment.db, "default", job_id)
    assert runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 2, 0)


def test_drain_gives_the_job_back(deployment: Deployment, runner: Runner) -> None:
    """A worker that stops lets its trainer save, and the job waits for another worker without a crash on its record."""
    job_id = submit(deployment, seed=stub_trainer.STOPPABLE)
    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        runner.stopping.set()
        thread.join(PATIENCE)
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes, job.lease_owner) == ("queued", 0, None)
    assert not runner.run_next()


def test_silent_trainer_is_killed(deployment: Deployment, runner: Runner) -> None:
    """A trainer that reports nothing for too long counts as crashed."""
    runner.settings = runner.settings.model_copy(update={"stall_seconds": 0.5})
    job_id = submit(deployment, seed=stub_trainer.DEAF)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    assert "reported nothing" in events_of(deployment.db, job_id)[-1].message


def test_unknown_database_stops_the_trainer_before_the_lease_ends(
    deployment: Deployment, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot beat any more ends its trainer by itself, before anyone else may start another."""
    job_id = submit(deployment, seed=stub_trainer.DEAF)

    def away(*_: Any, **__: Any) -> str:
        raise OperationalError("beat", {}, Exception("the database is away"))

    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        with monkeypatch.context() as patch:
            patch.setattr(lifecycle, "beat", away)
            # As if most of the lease had passed since the last beat.
            patch.setattr(lease, "time", Later(0.9 * runner.settings.lease_seconds))
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert job_of(deployment.db, job_id).status == "running"
    expire(deployment.db, job_id)
    lifecycle.recover(deployment.db, limit=3)
    assert job_of(deployment.db, job_id).crashes == 1


def test_taken_over_job_is_left_alone(deployment: Deployment, runner: Runner) -> None:
    """A worker whose job went to another attempt ends its trainer and writes nothing more."""
    job_id = submit(deployment, seed=stub_trainer.HANG)

    with _running(runner) as thread:
        eventually(lambda: (job_of(deployment.db, job_id).progress or {}).get("step") == 1)
        with deployment.db.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(attempt=2, lease_owner="another"))
        thread.join(PATIENCE)
        assert not thread.is_alive()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.attempt, job.lease_owner, job.crashes) == ("running", 2, "another", 0)


def test_every_log_line_of_an_attempt_names_it(
    deployment: Deployment, runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job and attempt, also in the threads beside it; none after its end."""
    configure_logs()

    def ship(shipper: LogShipper, *, ended: bool = False) -> None:
        raise OSError("no log today")

    monkeypatch.setattr(LogShipper, "ship", ship)
    job_id = submit(deployment)
    assert runner.run_next()
    structlog.get_logger().info("afterwards")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    of_attempt, (after,) = lines[:-1], lines[-1:]
    assert {"attempt ended", "a trainer's log could not be stored"} <= {line["event"] for line in of_attempt}
    assert {(line["job"], line["attempt"]) for line in of_attempt} == {(job_id, 1)}
    assert "job" not in after


@pytest.mark.parametrize("broker", ["answers", "is away"])
def test_a_base_that_a_job_brings_is_read_at_once(deployment: Deployment, runner: Runner, broker: str) -> None:
    """Its tensors are for previews; the job needs no message, and ends as ever without a broker."""
    place_model(runner, "tiny")
    sent: list[str] = []

    def send(model_id: str) -> None:
        sent.append(model_id)
        if broker == "is away":
            raise ConnectionError("the broker is away")

    runner.wake_model = send
    for expected in (["tiny"], ["tiny"]):
        job_id = submit(deployment, model="tiny", model_spec={"type": "transformers", "path": "tiny"})
        assert runner.run_next()
        assert job_of(deployment.db, job_id).base_model == "tiny"
        assert sent == expected
        bases.ready(deployment.db, "tiny", [])


def test_events_have_no_gap(deployment: Deployment, runner: Runner) -> None:
    """The story of a job reads in order, from its creation to its end."""
    job_id = submit(deployment)
    runner.run_next()
    events = events_of(deployment.db, job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    messages = [event.message for event in events]
    assert messages[:2] == ["Job created", "Job started"]
    assert messages[-1] == "Job succeeded"
    assert [event.data["step"] for event in events if event.type == "metrics" and event.data] == [1, 3]


class _running:  # noqa: N801 - used as a statement
    """A runner's `run_next` in a thread, as Celery's pool would call it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.thread = threading.Thread(target=runner.run_next, daemon=True)

    def __enter__(self) -> threading.Thread:
        self.thread.start()
        return self.thread

    def __exit__(self, *_: object) -> None:
        if self.thread.is_alive():
            self.runner.stopping.set()
            self.thread.join(PATIENCE)


def test_what_a_trainer_printed_outlives_it(deployment: Deployment, runner: Runner) -> None:
    """The workspace is gone; the log of the attempt that crashed and of the one that did not are there, in order."""
    job_id = submit(deployment, seed=stub_trainer.CRASH_ONCE)
    assert runner.run_next()
    with deployment.db.write() as session:
        session.get_one(Job, job_id).not_before = None
    assert runner.run_next()
    assert job_of(deployment.db, job_id).status == "succeeded"
    assert not (runner.settings.work / job_id).exists()
    with deployment.db.read() as session:
        lines = read_log(session, job_id)
    assert [line.text for line in lines if line.attempt == 1][-1] == "the last line of this trainer"
    assert str(runner.settings.home) not in "".join(line.text for line in lines)
