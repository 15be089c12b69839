"""What the end of a trainer means for its job."""

from typing import Any

from app.errors import PermafrostError
from app.jobs.queue.attempt import LeaseLost
from worker.protocol import EXIT_DEVICE_LOST, EXIT_DONE, EXIT_NO_ROOM, EXIT_SIGNALLED, EXIT_STOPPED
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.reports import ReportReader


class TrainerStopped(Exception):
    """The trainer ended because it was asked to; its state is saved as far as it got."""


class DiskFull(Exception):
    """The disk is full, and training on without checkpoints would put hours at stake."""


class DeviceLost(Exception):
    """The device went away under the trainer. What the job has saved is as good on another one."""


class TrainerCrashed(Exception):
    """The trainer ended without saying why."""


def explain(code: int, reports: ReportReader, *, asked: bool, keeper: LeaseKeeper) -> None:
    """What a trainer's exit means; returns only when it has done its work."""
    if keeper.lost is not None:
        raise keeper.lost
    if keeper.expired:
        raise LeaseLost(keeper.lease, "unknown, the database does not answer")
    if code == EXIT_DONE:
        return
    if reports.failed is not None:
        raise TrainerRefused(reports.failed)
    if code == EXIT_NO_ROOM:
        raise DiskFull
    if code == EXIT_DEVICE_LOST:
        raise DeviceLost
    if code == EXIT_STOPPED or asked:
        raise TrainerStopped
    if code > EXIT_SIGNALLED:
        raise TrainerCrashed(f"one of the trainer's ranks was killed by signal {code - EXIT_SIGNALLED}")
    raise TrainerCrashed(
        f"the trainer was killed by signal {-code}" if code < 0 else f"the trainer ended with code {code}"
    )


class TrainerRefused(PermafrostError):
    """The trainer said what was wrong, in words for the person who made the job."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(
            str(report.get("message")),
            code=str(report.get("code") or "training_failed"),
            param=report.get("param"),
            errors=report.get("errors") or (),
        )


def problem_of(refused: PermafrostError) -> dict[str, Any]:
    """As the job's `error` tells it."""
    problem: dict[str, Any] = {
        "code": refused.code or "invalid_request",
        "message": refused.message,
        "param": refused.param,
    }
    return problem | ({"errors": refused.errors} if refused.errors else {})
