"""Dumps of both databases: no password on a command line, and no restore over another kind."""

import os
from pathlib import Path

import pytest

from app.evidence.format.keys import load_or_create
from app.ops.backup import copies
from app.ops.backup.dump import BackupError
from app.settings import Settings
from migrations.upgrade import upgrade
from tests.conftest import Deployment


@pytest.fixture
def settings(deployment: Deployment) -> Settings:
    """A service whose database was made by the migrations, as `permafrost serve` makes it."""
    from app.db import Base

    Base.metadata.drop_all(deployment.db.engine)
    upgrade(deployment.settings.database)
    load_or_create(deployment.settings.signing_key_path)
    return deployment.settings


def test_the_other_kind_of_database_is_refused(tmp_path: Path) -> None:
    """A dump of SQLite cannot go into PostgreSQL."""
    settings = Settings(data_dir=tmp_path / "data")
    upgrade(settings.database)
    copies.write(settings, tmp_path / "backup")
    other = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/x"})
    with pytest.raises(BackupError, match="of a sqlite database"):
        copies.read_back(other, tmp_path / "backup")


def test_no_password_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's tools get it through their environment, which other users cannot read."""
    from app.db import Database
    from app.ops.backup.dump import _run

    tool = tmp_path / "pg_dump"
    tool.write_text('#!/bin/sh\ncd "$(dirname "$0")"; printf "%s\\n" "$@" > seen; echo "$PGPASSWORD" > env\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    db = Database("postgresql://user:canary@db.example/permafrost")
    _run("pg_dump", db, "--format=custom")
    db.close()
    assert "canary" not in (tmp_path / "seen").read_text() and "user@db.example" in (tmp_path / "seen").read_text()
    assert (tmp_path / "env").read_text() == "canary\n"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(BackupError, match="not on PATH"):
        _run("pg_dump", db)
