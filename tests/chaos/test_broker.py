"""The broker lost, emptied, silent, doubled, or speaking another version: the row is the job, a message a doorbell."""

import time
from typing import Any

import pytest
import redis as client

from app.broker.celery import make_celery, wake
from tests.chaos.cluster import Cluster, eventually
from tests.chaos.runs import Gates, in_a_step, order
from tests.chaos.score import ANSWER


@pytest.mark.fault(5)
@pytest.mark.parametrize("broker", ["refused", "silent"])
def test_submit_without_a_broker(cluster: Cluster, gates: Gates, broker: str, record_property: Any) -> None:
    """The answer does not wait for the broker, and maintenance starts the job while it is still away."""
    body = order(cluster, gates)
    if broker == "refused":
        cluster.redis.kill()
    else:
        cluster.redis.silence()
    started = time.monotonic()
    job_id = cluster.submit(body)
    record_property(ANSWER, time.monotonic() - started)
    assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)


@pytest.mark.fault(6)
def test_broker_away_while_a_job_runs(cluster: Cluster, gates: Gates) -> None:
    """Training does not notice, the worker lives, and hears the next message when the broker is back."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    with client.Redis.from_url(cluster.redis.url) as connection:
        for each in connection.client_list():
            if each["id"] != str(connection.client_id()):
                connection.client_kill_filter(_id=each["id"])
    cluster.redis.kill()
    caught.go_on()
    assert cluster.ended(caught.job_id)["attempts"] == 1
    assert cluster.worker.popen.poll() is None
    cluster.redis.start()
    assert cluster.ended(cluster.submit(order(cluster, gates)))["attempts"] == 1


@pytest.mark.fault(7)
def test_broker_is_emptied(cluster: Cluster, gates: Gates) -> None:
    """FLUSHALL with a job running and two waiting: all three end."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    waiting = [cluster.submit(order(cluster, gates)) for _ in range(2)]
    with client.Redis.from_url(cluster.redis.url) as connection:
        connection.flushall()
    caught.go_on()
    for job_id in (caught.job_id, *waiting):
        assert cluster.ended(job_id)["attempts"] == 1


@pytest.mark.fault(8)
def test_messages_doubled_late_and_unknown(cluster: Cluster, gates: Gates) -> None:
    """A hundred rings in any order, before, during and after the run, some for jobs that never were: one claim each."""
    celery = make_celery(cluster.settings)
    jobs = []
    caught = in_a_step(cluster, gates)
    assert caught is not None
    jobs = [caught.job_id, cluster.submit(order(cluster, gates)), cluster.submit(order(cluster, gates))]
    for turn in range(100):
        wake(celery, jobs[-1 - turn % 3] if turn % 4 else f"ftjob-{turn:024d}")
    caught.go_on()
    for job_id in jobs:
        assert cluster.ended(job_id)["attempts"] == 1
        wake(celery, job_id)
    last = cluster.submit(order(cluster, gates))
    assert cluster.ended(last)["attempts"] == 1
    for job_id in jobs:
        assert len(cluster.said(job_id, "Job started")) == 1


@pytest.mark.fault(9)
def test_messages_of_other_versions(cluster: Cluster, gates: Gates) -> None:
    """Older ones without a version, newer ones with more fields, tasks that nobody knows, and no task at all."""
    celery = make_celery(cluster.settings)
    caught = in_a_step(cluster, gates)
    assert caught is not None
    job_id = cluster.submit(order(cluster, gates))
    celery.send_task("permafrost.run_job", args=[job_id])
    celery.send_task("permafrost.run_job", kwargs={"job_id": job_id, "v": 99, "colour": "blue"})
    celery.send_task("permafrost.run_job", args=[])
    celery.send_task("permafrost.run_job", args=[{"a": "job"}, 7])
    celery.send_task("permafrost.train", args=[1, 2, 3])
    with client.Redis.from_url(cluster.redis.url) as connection:
        connection.lpush("permafrost", b"not a message", b'{"body": 7}')
    caught.go_on()
    for each in (caught.job_id, job_id):
        assert cluster.ended(each)["attempts"] == 1
    assert cluster.worker.popen.poll() is None
    eventually(lambda: not _waiting(cluster), says=cluster.log)


def _waiting(cluster: Cluster) -> int:
    with client.Redis.from_url(cluster.redis.url) as connection:
        return int(connection.llen("permafrost"))
