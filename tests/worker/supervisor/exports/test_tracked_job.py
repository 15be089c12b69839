"""A job as trackers show it."""

from dataclasses import replace

from tests.worker.supervisor.exports.test_to_wandb import JOB
from worker.supervisor.exports.tracked_job import TrackedJob


def test_points_of_a_step_are_one_row() -> None:
    """In the order of steps, by split and name, without what is no number."""
    metrics = [
        {"step": 2, "split": "valid", "values": {"loss": 1.5, "text": "x"}},
        {"step": 1, "split": "train", "values": {"loss": 2, "bad": float("inf")}},
        {"step": 2, "split": "train", "values": {"loss": 1.0}},
    ]
    rows = list(replace(JOB, metrics=metrics).by_step())
    assert rows == [(1, {"train/loss": 2}), (2, {"valid/loss": 1.5, "train/loss": 1.0})]


def test_a_job_without_a_result_has_no_model_and_no_verdict() -> None:
    """And is called by its id where it has no suffix."""
    failed = replace(JOB, status="failed", model=None, verdict=None, suffix=None)
    assert failed.facts == {"permafrost.job": "ftjob-1"}
    assert (failed.name, JOB.name, failed.succeeded, JOB.succeeded) == ("ftjob-1", "tuned", False, True)


def test_it_is_read_as_it_was_written() -> None:
    """By the process that sends it."""
    job = replace(JOB, metrics=[])
    assert TrackedJob.from_json(job.to_json()) == job
