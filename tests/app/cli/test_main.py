"""The `permafrost` command as a person or a supervisor of processes uses it."""

import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from app.db import Database
from tests.app.cli.commands import ROOT, Command

PROBE = """
import sys
sys.argv = ["permafrost", "verify", "--help"]
import app.cli.main
try:
    app.cli.main.main()
except SystemExit:
    print("LOADED", *{name.partition(".")[0] for name in sys.modules})
"""


def test_a_worker_does_not_start_on_older_tables(permafrost: Command, tmp_path: Path) -> None:
    """It says which version they have; tables of a newer version are no obstacle."""
    from migrations.upgrade import shortfall, upgrade

    url = f"sqlite:///{tmp_path / 'old.db'}"
    upgrade(url, "0001")
    done = permafrost("worker", PERMAFROST_DATABASE_URL=url)
    assert done.returncode == 1
    assert "the tables are at version 0001" in done.stderr
    db = Database(url)
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert shortfall(session.connection()) is None
    db.close()


def test_no_keys_yet_says_how_to_make_one(permafrost: Command) -> None:
    """Instead of an empty table."""
    assert "permafrost keys create" in permafrost("keys", "list").stderr


def test_verify_starts_without_the_rest() -> None:
    """An auditor's command loads no web framework, database or terminal toolkit."""
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "cryptography" in loaded
    assert loaded.isdisjoint({"typer", "rich", "fastapi", "sqlalchemy", "pydantic", "celery", "numpy"})


def test_verify_says_by_its_code_that_it_could_not_check(permafrost: Command, tmp_path: Path) -> None:
    """2, as documented: neither verified nor rejected."""
    missing = str(tmp_path / "none.json")
    done = permafrost("verify", missing, "--key", missing, "--result", str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
