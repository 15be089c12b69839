"""Alembic's entry: which tables there are, and one locked transaction around all revisions."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

from app.db import Database, UtcDateTime
from app.settings import Settings
from migrations.tables import tables

#: Any number, the same in every process: two that migrate PostgreSQL at once take turns.
LOCK = 0x5045_524D_4146


def run() -> None:
    if context.is_offline_mode():
        configure(dialect_name="postgresql")
        with context.begin_transaction():
            context.run_migrations()
        return
    database = Database(context.config.get_main_option("sqlalchemy.url") or Settings().database)
    try:
        with database.engine.connect() as connection:
            migrate(connection)
    finally:
        database.close()


def migrate(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        # Rebuilding a table would delete its children; the switch has no effect inside a transaction.
        connection.connection.execute("PRAGMA foreign_keys=OFF").close()
    configure(connection=connection)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()


def configure(**target: Any) -> None:
    context.configure(
        target_metadata=tables(),
        transactional_ddl=True,
        render_as_batch=True,
        compare_type=True,
        render_item=render,
        **target,
    )


def render(kind: str, item: object, _autogen: object) -> str | Literal[False]:
    return "UTC" if kind == "type" and isinstance(item, UtcDateTime) else False


run()
