"""`permafrost migrate`, as it is typed."""

import json

from migrations.upgrade import head
from tests.app.cli.commands import Command


def test_migrate_twice_changes_nothing(permafrost: Command) -> None:
    """It says which version the tables have, to programs as JSON."""
    first, second = permafrost("migrate"), permafrost("migrate", "--json")
    assert first.returncode == second.returncode == 0
    assert first.stdout == f"the database tables are at version {head()}\n"
    assert json.loads(second.stdout) == {"version": head()}
