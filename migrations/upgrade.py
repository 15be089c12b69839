"""The schema of a database: bring it to this version's, and tell which version it has."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


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


def config(url: str = "") -> Config:
    made = Config(Path(__file__).with_name("alembic.ini"))
    made.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return made
