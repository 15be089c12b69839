"""A PostgreSQL database that one test after the other is given, emptied in between.

To copy a database from a template takes 70 ms, which is longer than most tests of a query; to empty one takes 10. What
a test changes other than rows makes the next one get a new copy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from app.db import new_id
from tests.servers import plain

#: All that a test could leave in a database but rows: columns, constraints, indexes, and what the planner has measured.
SHAPE: Final[LiteralString] = """
    SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
        SELECT format('%s.%s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull) AS line
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT tgname FROM pg_trigger
        UNION ALL SELECT format('%s %s', tablename, attname) FROM pg_stats WHERE schemaname = 'public'
    ) AS lines"""
#: Bytes by which a database may have grown, above which dead rows would slow the next tests.
GROWTH: Final = 4 << 20


class ReusedDatabase:
    """Copies of a template on a server. `server` is a URL, `template` the name of a database with empty tables."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._name: str | None = None
        self._new: tuple[Any, ...] = ()  # shape and size of a database that no test has had

    @contextmanager
    def given(self) -> Iterator[str]:
        """The URL of a database with empty tables. Afterwards nobody is connected to it."""
        name = self._name or self._copied()
        self._name = None
        try:
            yield self._url(name)
        finally:
            self._disconnect(name)
            if self._emptied(name):
                self._name = name
            else:
                self._drop(name)

    def close(self) -> None:
        if self._name is not None:
            self._drop(self._name)

    def _copied(self) -> str:
        name = new_id("permafrost-test")
        self._run("CREATE DATABASE {} TEMPLATE {}", name, self._template)
        with psycopg.connect(plain(self._url(name)), autocommit=True) as connection:
            self._new = _state(connection)
        return name

    def _disconnect(self, name: str) -> None:
        with psycopg.connect(plain(self._server), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def _emptied(self, name: str) -> bool:
        """Whether the database is as a new one is."""
        with psycopg.connect(plain(self._url(name)), autocommit=True) as connection:
            shape, size = _state(connection)
            if shape != self._new[0] or size > self._new[1] + GROWTH:
                return False
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            used = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"
            lines = [sql.SQL("SET session_replication_role = replica")]  # in any order, whatever refers to what
            lines += [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for (table,) in tables]
            sequences = connection.execute(used).fetchall()
            lines += [sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(each)) for (each,) in sequences]
            connection.execute(sql.SQL("; ").join(lines))
        return True

    def _drop(self, name: str) -> None:
        self._run("DROP DATABASE {} WITH (FORCE)", name)

    def _run(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(plain(self._server), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _url(self, name: str) -> str:
        return make_url(self._server).set(database=name).render_as_string(hide_password=False)


def _state(connection: psycopg.Connection) -> tuple[Any, ...]:
    found = connection.execute(f"SELECT ({SHAPE}), pg_database_size(current_database())").fetchone()
    assert found is not None
    return found
