"""Stops that are asked for, stops that are not, and races between them: one ending, and no trainer is left."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.cluster import Cluster, end, eventually
from tests.chaos.runs import Caught, Gates, catch, in_a_step, order
from tests.chaos.servers import Wire
from tests.worker.processes import gone


def while_loading(cluster: Cluster, gates: Gates) -> Caught:
    gates.close("a1-loading")
    job_id = cluster.submit(order(cluster, gates))
    return Caught(job_id, gates.reached("a1-loading", says=lambda: cluster.story(job_id)), gates)


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    "point",
    [
        pytest.param(lambda cluster, gates: catch(cluster, gates, "in a step"), id="in a step"),
        pytest.param(lambda cluster, gates: catch(cluster, gates, "in a write"), id="in a checkpoint"),
        pytest.param(while_loading, id="while loading"),
    ],
)
def test_worker_is_told_to_stop(cluster: Cluster, gates: Gates, point: Callable[[Cluster, Gates], Caught]) -> None:
    """It saves, gives the job back at once, and ends with code 0; no crash is counted, and another worker goes on."""
    caught = point(cluster, gates)
    first = cluster.worker
    # Its own maintenance is not what finds the job: it is rung for.
    cluster.workers.append(cluster.start_worker(PERMAFROST_SWEEP_SECONDS="600"))
    first.popen.send_signal(signal.SIGTERM)
    eventually(caught.has_been_told, says=lambda: cluster.story(caught.job_id))
    caught.go_on()
    assert cluster.retire(first) == 0, "\n".join(first.lines)
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    job = cluster.row(caught.job_id)
    assert (job.attempt, job.crashes) == (2, 0), cluster.story(caught.job_id)


@pytest.mark.fault(15)
def test_stopped_worker_is_fenced_off(cluster: Cluster, gates: Gates) -> None:
    """Asleep beyond its lease: its trainer is ended before another one starts, and when it wakes it writes nothing."""
    cluster.add_worker()
    caught = in_a_step(cluster, gates)
    assert caught is not None
    asleep = _holder(cluster, caught.job_id)
    trainers = cluster.trainers(caught.job_id)
    gates.close("a2-step-1")
    asleep.popen.send_signal(signal.SIGSTOP)
    gates.reached("a2-step-1", says=lambda: cluster.story(caught.job_id))
    assert gone(trainers)
    asleep.popen.send_signal(signal.SIGCONT)
    eventually(lambda: any("attempt ended" in line and caught.job_id in line for line in asleep.lines))
    assert cluster.row(caught.job_id).attempt == 2
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    assert cluster.row(caught.job_id).crashes == 1


@pytest.mark.fault(16)
def test_hanging_trainer_is_killed(cluster: Cluster, gates: Gates) -> None:
    """Deaf and silent: the watchdog ends it, and the next attempt goes on."""
    cluster.replace_worker(PERMAFROST_STALL_SECONDS="30")
    gates.close("a1-step-18", "hang")
    job_id = cluster.submit(order(cluster, gates))
    gates.reached("a1-step-18", says=lambda: cluster.story(job_id))
    assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)
    assert cluster.said(job_id, "reported nothing")
    assert cluster.row(job_id).crashes == cluster.row(job_id).attempt - 1 > 0


@pytest.mark.fault(22)
def test_cancel_races_with_claim(cluster: Cluster, gates: Gates) -> None:
    """Cancelled at any moment around its start: cancelled it is, and no trainer is left."""
    body = order(cluster, gates, pace=1.0)
    for turn in range(12):
        job_id = cluster.submit(body)
        time.sleep(turn * 0.03)
        assert cluster.post(f"fine_tuning/jobs/{job_id}/cancel")["status"] == "cancelled"
    for job_id in list(cluster.jobs):
        eventually(lambda job_id=job_id: not cluster.trainers(job_id))  # type: ignore[misc]
        assert cluster.job(job_id)["status"] == "cancelled"


@pytest.mark.fault(22)
def test_cancel_ends_a_hanging_trainer(cluster: Cluster, gates: Gates) -> None:
    """The whole group is killed, and the device goes to the next job."""
    gates.close("step-18", "hang")
    job_id = cluster.submit(order(cluster, gates))
    gates.reached("step-18", says=lambda: cluster.story(job_id))
    trainers = cluster.trainers(job_id)
    cluster.post(f"fine_tuning/jobs/{job_id}/cancel")
    eventually(lambda: gone(trainers))
    gates.open_all()
    assert cluster.ended(cluster.submit(order(cluster, gates)))["status"] == "succeeded"


@pytest.mark.fault(20)
def test_two_cancels(cluster: Cluster, gates: Gates) -> None:
    """At the same moment and once more: the same answer each time, one event."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    path, answers = f"fine_tuning/jobs/{caught.job_id}/cancel", []
    threads = [threading.Thread(target=lambda: answers.append(cluster.post(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.append(cluster.post(path))
    assert {(answer["status"], answer["finished_at"]) for answer in answers} == {
        ("cancelled", answers[0]["finished_at"])
    }
    assert len(answers) == 5
    assert len(cluster.said(caught.job_id, "Job cancelled")) == 1


@pytest.mark.fault(21)
def test_pause_then_cancel(cluster: Cluster, gates: Gates) -> None:
    """Cancelled, also while it is pausing; what was cancelled is not resumed."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    assert cluster.post(f"fine_tuning/jobs/{caught.job_id}/pause")["status"] == "pausing"
    assert cluster.post(f"fine_tuning/jobs/{caught.job_id}/cancel")["status"] == "cancelled"
    assert cluster.post(f"fine_tuning/jobs/{caught.job_id}/resume", status=409)["error"]["message"]
    assert cluster.post(f"fine_tuning/jobs/{caught.job_id}/pause", status=409)["error"]["message"]
    caught.go_on()
    assert cluster.job(caught.job_id)["status"] == "cancelled"


@pytest.mark.fault(33)
def test_lost_device(cluster: Cluster, gates: Gates) -> None:
    """The job goes on on another worker's device, without a crash; a worker that has none left ends."""
    first = cluster.worker
    gates.close("a1-step-18", "lose")
    job_id = cluster.submit(order(cluster, gates))
    gates.reached("a1-step-18", says=lambda: cluster.story(job_id))
    assert first.popen.wait(120) == 0, "\n".join(first.lines)
    assert cluster.row(job_id).status == "queued", cluster.story(job_id)
    cluster.replace_worker()
    assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)
    job = cluster.row(job_id)
    assert (job.attempt, job.crashes) == (2, 0)
    assert cluster.said(job_id, "The device was lost; job queued again")


def _holder(cluster: Cluster, job_id: str) -> Any:
    owner = (cluster.row(job_id).lease_owner or "").split("/")
    return next(each for each in cluster.workers if str(each.popen.pid) in owner)


@pytest.mark.fault(4)
def test_worker_killed_in_maintenance(cluster: Cluster, gates: Gates) -> None:
    """Its takeover is not half done: the next round does it, and it is done once."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    end(cluster.worker)
    wire = Wire(cluster.postgres.url)
    try:
        ambush = wire.lay(b"stopped answering", when="before", then="hold")
        maintaining = cluster.start_worker(PERMAFROST_DATABASE_URL=wire.url)
        assert ambush.sprung.wait(120), cluster.story(caught.job_id)
        end(maintaining)
        maintaining.stop()
    finally:
        wire.close()
    assert cluster.row(caught.job_id).status == "running"
    caught.go_on()
    cluster.replace_worker()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    assert len(cluster.said(caught.job_id, "stopped answering")) == 1
