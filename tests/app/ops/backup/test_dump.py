"""Dumps of both databases: no password on a command line."""

import os
from pathlib import Path

import pytest

from app.ops.backup.dump import BackupError


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
