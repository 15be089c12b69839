"""The `permafrost` command as a person or a supervisor of processes uses it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from sqlalchemy import text

from app.cli.main import make_app
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


#: Those that run until they are stopped, and those whose standard output is the document itself.
WITHOUT_JSON = {"serve", "worker", "mcp", "bom", "files get", "base registry make"}
#: Those that parse their own arguments; what they print has tests of its own.
OWN_PARSER = {"verify", "reproduce", "prove-example", "check-example", "log", "diff"}


def test_every_command_prints_json_for_programs() -> None:
    """But for those that print a document, or nothing."""
    found = dict(leaves(typer.main.get_command(make_app())))
    plain = {name for name, command in found.items() if not any("--json" in each.opts for each in command.params)}
    assert plain == WITHOUT_JSON | OWN_PARSER


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield " ".join(path), command
    for name, each in (inside or {}).items():
        yield from leaves(each, (*path, name))


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


def test_a_shell_completes_commands(permafrost: Command) -> None:
    """By the script that --show-completion prints for it; which shell started the tests does not matter."""
    shown = permafrost("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0 and "_PERMAFROST_COMPLETE" in shown.stdout
