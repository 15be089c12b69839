"""What the end of a trainer means for its job."""

from tests.conftest import Deployment
from tests.worker.supervisor import stub_trainer
from tests.worker.supervisor.jobs import events_of, eventually, job_of, make_runner, submit
from worker.supervisor.process.child import Forkserver
from worker.supervisor.runner import Runner


def test_failure_keeps_the_trainers_words(deployment: Deployment, runner: Runner) -> None:
    """What the trainer found wrong with the data reaches the job, with line and field; nothing is retried."""
    job_id = submit(deployment, seed=stub_trainer.FAIL)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("failed", 0)
    assert job.error == {
        "code": "invalid_training_data",
        "message": "1 bad line",
        "param": "training_file",
        "errors": [{"line": 3, "field": "y", "code": "not_a_number", "message": "is text"}],
    }
    assert not runner.run_next()


def test_crash_is_booked_with_the_logs_end(deployment: Deployment, runner: Runner) -> None:
    """A killed trainer counts as a crash; the job waits for its next attempt, and the event has the log's last line."""
    job_id = submit(deployment, seed=stub_trainer.CRASH)
    runner.run_next()
    job = job_of(deployment.db, job_id)
    assert (job.status, job.crashes) == ("queued", 1)
    last = events_of(deployment.db, job_id)[-1]
    assert "signal 9" in last.message
    assert last.data is not None
    assert last.data["log_tail"][-1:] == ["the last line of this trainer"]


def test_poison_job_ends(deployment: Deployment, forkserver: Forkserver) -> None:
    """A job that kills every trainer fails after the last crash that is allowed, and the queue moves on."""
    runner = make_runner(deployment, forkserver, max_crashes=2)
    poison = submit(deployment, seed=stub_trainer.CRASH)
    for _ in range(2):
        eventually(runner.run_next)
    job = job_of(deployment.db, poison)
    assert (job.status, job.attempt) == ("failed", 2)
    assert job.error is not None
    assert job.error["log_tail"][-1:] == ["the last line of this trainer"]
    healthy = submit(deployment)
    runner.run_next()
    assert job_of(deployment.db, healthy).status == "succeeded"
