"""kill -9 of each part of the service in each phase of a job's life: it ends once, with the same bits."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.cluster import Cluster, end, eventually
from tests.chaos.runs import PHASES, Gates, catch, in_a_step
from tests.chaos.score import BACK, BACK_AT_DEFAULTS
from tests.worker.processes import gone


@pytest.mark.fault(1)
@pytest.mark.parametrize("phase", PHASES)
def test_killed_trainer(cluster: Cluster, gates: Gates, phase: str) -> None:
    """A crash is counted, and the next attempt goes on from what was saved."""
    caught = catch(cluster, gates, phase)
    os.kill(caught.pid, signal.SIGKILL)
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    job = cluster.row(caught.job_id)
    assert (job.attempt, job.crashes) == (2, 1), cluster.story(caught.job_id)
    assert bool(cluster.said(caught.job_id, "goes on after step")) == (phase != "before step 1")


@pytest.mark.fault(2, 30)
@pytest.mark.parametrize("phase", PHASES)
def test_killed_worker(cluster: Cluster, gates: Gates, phase: str) -> None:
    """Its trainer dies with it. A worker of the same host inherits no lease, and takes the job over when it is out."""
    caught = catch(cluster, gates, phase)
    trainers = cluster.trainers(caught.job_id)
    assert trainers
    before = cluster.row(caught.job_id)
    end(cluster.worker)
    eventually(lambda: gone(trainers))
    caught.gates.open_all()
    cluster.replace_worker()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    job = cluster.row(caught.job_id)
    assert (job.attempt, job.crashes) == (2, 1), cluster.story(caught.job_id)
    assert cluster.said(caught.job_id, "its worker stopped answering")
    taken = next(event for event in cluster.events(caught.job_id) if "stopped answering" in event.message)
    assert before.lease_until is not None and taken.created_at >= before.lease_until


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(lambda cluster: end(cluster.api), id="API", marks=pytest.mark.fault(3)),
        pytest.param(lambda cluster: cluster.redis.kill(), id="Redis", marks=pytest.mark.fault(6)),
        pytest.param(lambda cluster: cluster.postgres.kill(), id="PostgreSQL", marks=pytest.mark.fault(10)),
    ],
)
def test_killed_server(cluster: Cluster, gates: Gates, kill: Callable[[Cluster], None], phase: str) -> None:
    """Training goes on without it, and once it is back the job ends as if nothing had happened."""
    caught = catch(cluster, gates, phase)
    kill(cluster)
    caught.go_on()
    cluster.repair()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    assert cluster.worker.popen.poll() is None


@pytest.mark.fault(2)
@pytest.mark.parametrize("turn", range(3))
def test_job_of_a_killed_worker_runs_again(cluster: Cluster, gates: Gates, turn: int, record_property: Any) -> None:
    """Another worker that is there takes it over; how long that took goes into the score."""
    record_property(BACK, _takeover(cluster, gates))


@pytest.mark.fault(2)
def test_job_runs_again_with_the_default_lease(cluster: Cluster, gates: Gates, record_property: Any) -> None:
    """With the settings of a deployment: within the lease, a round of maintenance and the back-off of a first crash."""
    names = ("LEASE", "HEARTBEAT", "SWEEP")
    seconds = dict(zip(names, ("60", "10", "15"), strict=True))
    cluster.replace_worker(**{f"PERMAFROST_{name}_SECONDS": value for name, value in seconds.items()})
    cluster.add_worker(**{f"PERMAFROST_{name}_SECONDS": value for name, value in seconds.items()})
    record_property(BACK_AT_DEFAULTS, _takeover(cluster, gates))


def _takeover(cluster: Cluster, gates: Gates) -> float:
    """Seconds from kill -9 of a worker to the first step of the next attempt."""
    while len(cluster.workers) < 2:
        cluster.add_worker()
    gates.close("a2-step-1")
    caught = in_a_step(cluster, gates)
    assert caught is not None
    owner = (cluster.row(caught.job_id).lease_owner or "").split("/")
    holder = next(each for each in cluster.workers if str(each.popen.pid) in owner)
    killed = time.monotonic()
    end(holder)
    gates.reached("a2-step-1", says=lambda: cluster.story(caught.job_id))
    seconds = time.monotonic() - killed
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    return seconds
