"""Jobs, and faults at random moments from a seed that is printed; then the books are balanced.

`PERMAFROST_CHAOS_SEED` repeats a run as far as the machine lets it; `--chaos-jobs` makes it longer.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import httpx2
import psutil
import pytest
import redis as client

from app.broker.celery import make_celery, wake
from tests.chaos.cluster import Cluster, end
from tests.chaos.runs import Gates, order
from tests.end_to_end.conftest import ENDED, Running
from tests.patience import PATIENCE

SEED = int(os.environ.get("PERMAFROST_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
#: So many faults for each job; after that they are left to end.
FAULTS_PER_JOB = 2


class Mischief:
    """Does one thing at a time; `mend` undoes what would keep jobs from ending."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.story: list[str] = []

    def strike(self) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "trainer killed": self._kill_trainer,
            "worker killed": lambda: end(self._worker()),
            "worker told to stop": lambda: self._worker().popen.send_signal(signal.SIGTERM),
            "worker stopped beyond its lease": self._stop_worker,
            "API killed": lambda: end(self.cluster.api),
            "Redis killed": self.cluster.redis.kill,
            "Redis silent": self.cluster.redis.silence,
            "Redis emptied": self._empty_redis,
            "PostgreSQL killed": self.cluster.postgres.kill,
            "a hundred rings": self._ring,
            "paused and resumed": self._pause,
        }
        name = self.chance.choice(sorted(deeds))
        self.story.append(name)
        deeds[name]()

    def mend(self) -> None:
        """With two workers, as before."""
        cluster = self.cluster
        cluster.redis.start()
        cluster.postgres.start()
        if cluster.api.popen.poll() is not None:
            cluster.api.stop()
            cluster.api = cluster.start_api()
        for each in list(cluster.workers):
            if each.popen.poll() is not None:
                cluster.workers.remove(each)
                cluster.retire(each)
        while len(cluster.workers) < 2:
            # That many crashes are our doing, and not a job's.
            cluster.add_worker(PERMAFROST_MAX_CRASHES="1000")

    def _worker(self) -> Running:
        return self.chance.choice(self.cluster.workers)

    def _kill_trainer(self) -> None:
        for job_id in self.chance.sample(self.cluster.jobs, len(self.cluster.jobs)):
            if trainers := self.cluster.trainers(job_id):
                with contextlib.suppress(psutil.NoSuchProcess):
                    trainers[0].kill()
                return

    def _stop_worker(self) -> None:
        worker = self._worker()
        worker.popen.send_signal(signal.SIGSTOP)
        time.sleep(self.cluster.settings.lease_seconds + 2)
        worker.popen.send_signal(signal.SIGCONT)

    def _empty_redis(self) -> None:
        with client.Redis.from_url(self.cluster.redis.url) as connection:
            connection.flushall()

    def _ring(self) -> None:
        celery = make_celery(self.cluster.settings)
        for _ in range(100):
            wake(celery, self.chance.choice(self.cluster.jobs))

    def _pause(self) -> None:
        path = f"fine_tuning/jobs/{self.chance.choice(self.cluster.jobs)}"
        with contextlib.suppress(httpx2.TransportError):
            self.cluster.client.post(f"{path}/pause")
            time.sleep(self.chance.random())
            self.cluster.client.post(f"{path}/resume")


@pytest.mark.timeout(3600)
def test_random_faults(cluster: Cluster, gates: Gates, request: pytest.FixtureRequest) -> None:
    """Every accepted job ends once, successfully, with the undisturbed run's bits; the fixture balances the books."""
    print(f"PERMAFROST_CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    mischief = Mischief(cluster, chance)
    for each in cluster.workers:
        cluster.retire(each)
    cluster.workers = []
    mischief.mend()
    count = request.config.getoption("--chaos-jobs")
    body = order(cluster, gates, pace=0.02)
    for _ in range(count):
        cluster.submit(body)
    for _ in range(FAULTS_PER_JOB * count):
        time.sleep(chance.uniform(0.2, 2.0))
        if all(cluster.row(job_id).status in ENDED for job_id in cluster.jobs):
            break
        mischief.strike()
        time.sleep(chance.uniform(0.0, 2.0))
        mischief.mend()
    for job_id in cluster.jobs:
        with contextlib.suppress(httpx2.TransportError):
            cluster.client.post(f"fine_tuning/jobs/{job_id}/resume")
    deadline = time.monotonic() + PATIENCE + 20 * count
    while not all(cluster.row(job_id).status in ENDED for job_id in cluster.jobs):
        assert time.monotonic() < deadline, f"{mischief.story}\n{cluster.log()}"
        time.sleep(0.1)
    print(*mischief.story, sep="; ")
    for job_id in cluster.jobs:
        assert cluster.row(job_id).status == "succeeded", f"{mischief.story}\n{cluster.story(job_id)}"
