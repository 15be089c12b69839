"""A worker on SQLite, whose trainers lie where a job's seed says so."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db import Database
from app.settings import Settings
from tests.conftest import Deployment
from tests.worker.reproduction.attested import Workshop, quick
from tests.worker.supervisor.jobs import make_runner
from worker.supervisor.process.child import PRELOAD, Forkserver

LIARS = "tests.worker.reproduction.liars"


@pytest.fixture(scope="module")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        home = tmp_path_factory.mktemp("forkserver")
        with Forkserver(home=home, entry=f"{LIARS}:run", preload=[*PRELOAD, LIARS]) as forkserver:
            yield forkserver


@pytest.fixture
def workshop(
    request: pytest.FixtureRequest, tmp_path: Path, forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workshop]:
    """Its reproductions run in this process."""
    quick(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "data").mkdir()
    shutil.copyfile(request.getfixturevalue("sqlite_tables"), tmp_path / "data" / "permafrost.db")
    settings = Settings(data_dir=tmp_path / "data")
    database = Database(settings.database)
    deployment = Deployment("embedded", {}, settings, database)
    yield Workshop(deployment, make_runner(deployment, forkserver), tmp_path)
    database.close()
