"""What the end of a trainer process means for its job: done, refused, stopped, crashed."""

from app.errors import PermafrostError
from app.jobs.queue.attempt import LeaseLost
from app.jsontypes import JsonDict
from worker.protocol import EXIT_DEVICE_LOST, EXIT_DONE, EXIT_NO_ROOM, EXIT_SIGNALLED, EXIT_STOPPED
from worker.supervisor.lease import LeaseKeeper
from worker.supervisor.reports import ReportReader


class TrainerStopped(Exception):
    """The trainer ended on request; its last checkpoint is saved."""


class DiskFull(Exception):
    """The disk is full. Without checkpoints, hours of training could be lost: the job is paused.

    `worker` is whose disk it is, where that is a member of a gang.
    """

    def __init__(self, worker: str = "") -> None:
        whose = f"the disk of the worker {worker}" if worker else "the worker's disk"
        super().__init__(f"{whose} is full; make room, then resume the job: it goes on from its last checkpoint")


class DeviceLost(Exception):
    """The device failed under the trainer. The job resumes from its checkpoint on another one."""


class TrainerCrashed(Exception):
    """The trainer ended without a report that says why."""


def explain(code: int, reports: ReportReader, *, stop_requested: bool, keeper: LeaseKeeper) -> None:
    """Raise what a trainer's exit code and last reports mean; returns only when it has done its work."""
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
    if code == EXIT_STOPPED or stop_requested:
        raise TrainerStopped
    if code > EXIT_SIGNALLED:
        raise TrainerCrashed(f"one of the trainer's ranks was killed by signal {code - EXIT_SIGNALLED}")
    raise TrainerCrashed(
        f"the trainer was killed by signal {-code}" if code < 0 else f"the trainer ended with code {code}"
    )


class TrainerRefused(PermafrostError):
    """The trainer reported what is wrong with the job, in words for the person who made it."""

    def __init__(self, report: JsonDict) -> None:
        super().__init__(
            str(report.get("message")),
            code=str(report.get("code") or "training_failed"),
            param=report.get("param"),
            errors=report.get("errors") or (),
        )


def problem_of(error: PermafrostError) -> JsonDict:
    """The error as the job's `error` field has it."""
    problem: JsonDict = {
        "code": error.code or "invalid_request",
        "message": error.message,
        "param": error.param,
    }
    return problem | ({"errors": error.errors} if error.errors else {})
