"""The schema of a database: bring it to this version's, and tell which version it has."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect


def upgrade(url: str, revision: str = "head") -> None:
    """Runs what is missing in one transaction; processes that do so at once take turns."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(config(url), revision)


def head() -> str:
    """The revision that this version of the code expects."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    if found is None:
        raise RuntimeError("the installed package holds no migrations")
    return found


def current(connection: Connection) -> str | None:
    """The revision of a database, or None for one that was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def shortfall(connection: Connection) -> str | None:
    """Why these tables are too old for this version, in a sentence; newer ones will do: revisions add, then remove."""
    found, wanted = current(connection), head()
    if found is None and not inspect(connection).has_table("jobs"):
        return "the database has no tables yet: run `permafrost migrate`"
    known = {each.revision for each in ScriptDirectory.from_config(config()).walk_revisions()}
    if found in known - {wanted}:
        return f"the tables are at version {found}, and this version needs {wanted}: run `permafrost migrate`"
    return None


def config(url: str = "") -> Config:
    made = Config(Path(__file__).with_name("alembic.ini"))
    made.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return made
