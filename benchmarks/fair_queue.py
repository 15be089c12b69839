"""Claims on PostgreSQL: 500 workers that train nothing, 100,000 waiting jobs in 50 projects with weights from 1 to 4.

Workers are names that a few threads claim and finish with. First every worker claims; then a random one ends its job
and claims again. Where claims wait for each other, the clock of each claim shows it; shares are those of running
devices, over all of the second part. What computing a claim takes, client and server apart, `/proc` tells.
"""

import os
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import event

from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease, Outcome
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.tables import Job
from benchmarks.deployed import postgres
from benchmarks.figure import Figure
from migrations.upgrade import upgrade

WORKERS = 500
JOBS = int(os.environ.get("BENCH_JOBS", "100000"))
PROJECTS = 50
TURNS = int(os.environ.get("BENCH_TURNS", "2000"))
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
#: No claim begins after so many seconds, however many are left.
SECONDS = 180.0
Work = Callable[[int, random.Random], None]
WEIGHTS = {f"project-{number:02}": float(1 + number % 4) for number in range(PROJECTS)}


def figures() -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="permafrost-bench-") as folder, postgres(Path(folder)) as url:
        upgrade(url)
        database = Database(url)
        fill(database, url)
        try:
            yield from measured(database, url)
        finally:
            database.close()


def measured(database: Database, url: str) -> Iterable[Figure]:
    fleet = Fleet(database)
    with load(database, url) as cost:
        fleet.start()
        fleet.turn_over()
    done = len(fleet.milliseconds)
    quantiles = statistics.quantiles(fleet.milliseconds, n=100)
    yield Figure(f"claim, {WORKERS} workers, {JOBS:,} jobs, median", quantiles[49], "ms")
    yield Figure(f"claim, {WORKERS} workers, {JOBS:,} jobs, p99", quantiles[98], "ms", "at most 50")
    yield Figure("claims measured", done, "", f"{THREADS} at a time")
    yield Figure("jobs claimed twice", len(fleet.claimed) - len(set(fleet.claimed)), "", "0")
    yield Figure("claims that found nothing", fleet.empty, "", "0")
    yield Figure("share of devices, largest deviation from its weight", fleet.deviation(), "%", "at most 5")
    yield Figure("statements for a claim and an end", cost.statements / done, "")
    yield Figure("claims and ends", done / cost.seconds, "1/s")
    yield Figure("server, processor time for a claim and an end", 1e3 * cost.server / done, "ms")
    yield Figure("server, busy", 100 * cost.server / cost.seconds, "% of a core")
    yield Figure("client, processor time for a claim and an end", 1e3 * cost.client / done, "ms")


@dataclass
class Fleet:
    """Workers by name, with the leases that they hold."""

    database: Database
    shares: ProjectShares = field(default_factory=lambda: ProjectShares(WEIGHTS))
    leases: list[Lease] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)  # devices by project, added up over the turns
    empty: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self._together(WORKERS, lambda number, _: self._claim(f"worker-{number}"))

    def turn_over(self) -> None:
        self._together(TURNS, self._turn)

    def deviation(self) -> float:
        """In percent of its own share, of the project that is farthest from it."""
        total, weights = self.held.total(), sum(WEIGHTS.values())
        parts = (self.held[name] / total / (weight / weights) for name, weight in WEIGHTS.items())
        return 100 * max(abs(part - 1) for part in parts)

    def _turn(self, number: int, chance: random.Random) -> None:
        with self._lock:
            lease = self.leases.pop(chance.randrange(len(self.leases)))
            self.running[project_of(lease.job_id)] -= 1
        lifecycle.finish(self.database, lease, Outcome("succeeded"))
        self._claim(f"{lease.worker.partition('/')[0]}/{number}")
        with self._lock:
            self.held.update(self.running)

    def _claim(self, worker: str) -> None:
        began = time.perf_counter()
        lease = lifecycle.claim(self.database, worker=worker, seconds=3600.0, shares=self.shares)
        taken = 1e3 * (time.perf_counter() - began)
        with self._lock:
            self.milliseconds.append(taken)
            if lease is None:
                self.empty += 1
                return
            self.leases.append(lease)
            self.claimed.append(lease.job_id)
            self.running[project_of(lease.job_id)] += 1

    def _together(self, count: int, work: Work) -> None:
        numbers, until = iter(range(count)), time.monotonic() + SECONDS / 2

        def serve(seed: int) -> None:
            chance = random.Random(seed)
            while time.monotonic() < until:
                with self._lock:
                    number = next(numbers, None)
                if number is None:
                    return
                work(number, chance)

        threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@dataclass
class Cost:
    statements: int = 0
    seconds: float = 0.0
    client: float = 0.0
    server: float = 0.0


@contextmanager
def load(database: Database, url: str) -> Iterator[Cost]:
    """What the block costs the client and the server's sessions, which it opens beforehand so that they are seen."""
    cost = Cost()

    def count(*_: object) -> None:
        cost.statements += 1

    with psycopg.connect(url, autocommit=True) as connection:
        event.listen(database.engine, "before_cursor_execute", count)
        began, client, server = time.perf_counter(), time.process_time(), server_seconds(connection)
        yield cost
        cost.seconds, cost.client = time.perf_counter() - began, time.process_time() - client
        cost.server = server_seconds(connection) - server
        event.remove(database.engine, "before_cursor_execute", count)


def server_seconds(connection: psycopg.Connection) -> float:
    """What the server's processes have computed so far."""
    pids = [row[0] for row in connection.execute("SELECT pid FROM pg_stat_activity").fetchall()]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids if psutil.pid_exists(pid))


def fill(database: Database, url: str) -> None:
    """The waiting jobs: one row, copied."""
    first = Job(id="ftjob-first", project="project-00", status="queued", model="m", model_spec={}, task="causal-lm")
    first.training_file, first.data, first.seed, first.hyperparameters = "file-1", {}, 0, {}
    first.freeze_policy, first.evidence_options, first.result_files = {}, {}, []
    lifecycle.submit(database, first)
    with psycopg.connect(url) as connection:
        columns = [row[0] for row in connection.execute(_COLUMNS).fetchall()]
        chosen = ", ".join(_COPIED.get(name, f'"{name}"') for name in columns)
        named = ", ".join(f'"{name}"' for name in columns)
        copies = f"INSERT INTO jobs ({named}) SELECT {chosen} FROM jobs, generate_series(0, %s) AS n"
        connection.execute(copies, (JOBS - 1,))
        connection.execute("DELETE FROM jobs WHERE id = 'ftjob-first'")
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE jobs")


def project_of(job_id: str) -> str:
    """The project that a copy's id names."""
    return f"project-{int(job_id.removeprefix('ftjob-')) % PROJECTS:02}"


_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_name = 'jobs' AND table_schema = 'public' AND is_generated = 'NEVER'
"""
_COPIED = {
    "id": "'ftjob-' || lpad(n::text, 10, '0')",
    "project": f"'project-' || lpad(mod(n, {PROJECTS})::text, 2, '0')",
    "created_at": "created_at + n * interval '1 millisecond'",
    "queue_time": "queue_time + n * interval '1 millisecond'",
}
