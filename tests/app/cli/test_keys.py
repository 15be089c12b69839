"""`permafrost keys`, as it is typed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.audit.tables import AuditLog
from app.auth import api_keys
from app.db import Database

ROOT = Path(__file__).parents[3]


def keys(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "app.cli.main", "keys", *arguments]
    environment = os.environ | {"PERMAFROST_DATABASE_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "40"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_life_of_a_key(database_url: str):
    """Created: printed once, alone on standard output. Listed without its secret. Revoked: of no use. All audited."""
    done = keys(database_url, "create", "--project", "search", "--role", "admin", "--name", "first", "--expires", "90d")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert re.fullmatch(r"pf_[a-z0-9]{8}_[0-9a-f]{64}", key) and "shown once" in done.stderr and key not in done.stderr
    listed = keys(database_url, "list").stdout
    assert key[:11] in listed and "search" in listed and "until " in listed and key[12:] not in listed
    assert key[:11] not in keys(database_url, "list", "--project", "default").stdout
    (described,) = json.loads(keys(database_url, "list", "--json").stdout)
    assert (described["id"], described["role"], described["last_used_at"]) == (key[:11], "admin", None)
    db = Database(database_url)
    with db.read() as session:
        row = api_keys.find(session, key)
        assert row is not None and (row.project, row.role, row.name) == ("search", "admin", "first")
        assert row.expires_at is not None and (row.expires_at - row.created_at).days in (89, 90)
    revoked = keys(database_url, "revoke", key, "--json")  # the whole key is understood, too
    assert revoked.returncode == 0 and key[12:] not in revoked.stderr + revoked.stdout
    assert json.loads(revoked.stdout)["status"] == "revoked"
    with db.read() as session:
        assert api_keys.find(session, key) is None
        logged = [(row.action, row.object_id) for row in session.query(AuditLog).order_by(AuditLog.created_at)]
    db.close()
    assert logged == [("keys.create", key[:11]), ("keys.revoke", key[:11])]
    assert "revoked" in keys(database_url, "list").stdout
    assert keys(database_url, "revoke", key[:11]).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create"], "--name"),
        (["create", "--name", "x", "--role", "owner"], "admin"),
        (["create", "--name", "x", "--project", "a/b"], "letters"),
        (["create", "--name", ""], "1 to 128"),
        (["create", "--name", "x", "--expires", "soon"], "90d"),
        (["create", "--name", "x", "--expires", "2020-01-01"], "future date"),
        (["create", "--name", "x", "--expires", "0d"], "90d"),
        (["revoke", "pf_nobody00"], "keys list"),
    ],
)
def test_what_was_wrong_is_said(tmp_path: Path, arguments: list[str], says: str):
    """Exit code 2 and a sentence; no traceback, and nothing is made."""
    environment = os.environ | {"PERMAFROST_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "app.cli.main", "keys", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    if (tmp_path / "permafrost.db").exists():
        db = Database(f"sqlite:///{tmp_path / 'permafrost.db'}")
        with db.read() as session:
            assert api_keys.listed(session, project=None) == []
        db.close()
