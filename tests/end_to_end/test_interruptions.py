"""Jobs that are cancelled, paused, killed and taken over, through HTTP and with real trainers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.end_to_end.conftest import Service
from tests.worker.processes import of_job

# Long enough to be interrupted in the middle, with checkpoints on the way.
# 12,800 steps: some seconds, so that an interruption never comes too late.
LONG = {"n_epochs": 1_600, "batch_size": 8, "learning_rate": 0.001, "checkpoint_steps": 200}
# Nobody waits for its end.
ENDLESS = LONG | {"n_epochs": 100_000, "checkpoint_steps": 50_000}


def submit(service: Service, table: str, hyperparameters: dict[str, Any]) -> str:
    body = {
        "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 4, "out_features": 1}},
        "training_file": table,
        "seed": 11,
        "hyperparameters": hyperparameters,
        "freeze_policy": {"freeze": ["weight"]},
    }
    return str(service.post("fine_tuning/jobs", body)["id"])


def training(service: Service, job_id: str, *, step: int = 1) -> Any:
    """The job once it has come to this step."""
    return service.until(job_id, lambda job: (job["progress"]["step"] or 0) >= step)


def kill(service: Service, job_id: str, *, attempt: int, step: int) -> None:
    """kill -9 of this attempt's trainer. The step shown may still be the attempt's before; a process must be there."""
    alive: list[psutil.Process] = []

    def reached(job: Any) -> bool:
        if job["attempts"] == attempt and (job["progress"]["step"] or 0) >= step:
            alive.extend(of_job(job_id))
        return bool(alive)

    service.until(job_id, reached)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):  # it went down with the one before
            process.kill()


@pytest.fixture(scope="module")
def undisturbed(service: Service, table: str) -> Iterator[str]:
    """The result root of a run that nobody interrupts."""
    job = service.ended(submit(service, table, LONG))
    assert job["status"] == "succeeded", (job["error"], service.log())
    yield service.get(f"fine_tuning/jobs/{job['id']}/evidence")["result_root"]


@pytest.mark.chaos
def test_killed_trainer_ends_with_the_same_bits(service: Service, table: str, undisturbed: str) -> None:
    """kill -9 in the middle of training: the next attempt goes on from a checkpoint, to the same result root."""
    job_id = submit(service, table, LONG)
    kill(service, job_id, attempt=1, step=400)
    job = service.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2), (job["error"], service.log())
    assert service.get(f"fine_tuning/jobs/{job_id}/evidence")["result_root"] == undisturbed


@pytest.mark.chaos
def test_paused_job_ends_with_the_same_bits(service: Service, table: str, undisturbed: str) -> None:
    """Paused in the middle and resumed, it ends with the same result root."""
    job_id = submit(service, table, LONG)
    training(service, job_id, step=100)
    service.post(f"fine_tuning/jobs/{job_id}/pause")
    service.until(job_id, lambda job: job["status"] == "paused")
    assert not of_job(job_id)
    service.post(f"fine_tuning/jobs/{job_id}/resume")
    job = service.ended(job_id)
    assert job["status"] == "succeeded", (job["error"], service.log())
    assert service.get(f"fine_tuning/jobs/{job_id}/evidence")["result_root"] == undisturbed


@pytest.mark.chaos
def test_cancelled_job_frees_the_device(service: Service, table: str) -> None:
    """Cancelled while it trains: no process of it is left, and the next job gets the device."""
    job_id = submit(service, table, ENDLESS)
    training(service, job_id)
    waiting = submit(service, table, {"n_epochs": 1})
    assert service.job(waiting)["status"] == "queued"
    assert service.post(f"fine_tuning/jobs/{job_id}/cancel")["status"] == "cancelled"
    assert service.ended(waiting)["status"] == "succeeded"
    assert not of_job(job_id)
    assert service.job(job_id)["evidence"]["verdict"] == "none"


@pytest.mark.chaos
def test_waiting_job_is_cancelled_at_once(service: Service, table: str) -> None:
    """A job that never started ends without a trainer; a second cancel gives the same answer."""
    running = submit(service, table, ENDLESS)
    training(service, running)
    waiting = submit(service, table, ENDLESS)
    for _ in range(2):
        assert service.post(f"fine_tuning/jobs/{waiting}/cancel")["status"] == "cancelled"
    service.post(f"fine_tuning/jobs/{running}/cancel")
    assert service.job(waiting)["attempts"] == 0
