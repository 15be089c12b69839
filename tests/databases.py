"""A PostgreSQL database that one test after the other is given, emptied in between.

To copy a database from a template takes 70 ms, which is longer than most tests of a query; to empty one takes 10. What
a test changes other than rows makes the next one get a new copy.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from tests.servers import fresh_database, plain

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
#: Ends the connections of others to this database.
OTHERS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
#: Bytes by which a database may have grown, above which dead rows would slow the next tests.
GROWTH: Final = 4 << 20


class ReusedDatabase:
    """A copy of a template on a server. `server` is a URL, `template` the name of a database with empty tables."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._copy = ExitStack()  # drops the copy
        self._url: str | None = None
        self._new: tuple[Any, ...] = ()  # shape and size of a copy that no test has had

    @contextmanager
    def given(self) -> Iterator[str]:
        """The URL of a database with empty tables, to one at a time. Afterwards nobody is connected to it."""
        url = self._url or self._copied()
        try:
            yield url
        finally:
            if not self._emptied(url):
                self.close()

    def close(self) -> None:
        self._copy.close()
        self._url = None

    def _copied(self) -> str:
        url = self._url = self._copy.enter_context(fresh_database(self._server, template=self._template))
        with psycopg.connect(plain(url), autocommit=True) as connection:
            self._new = _state(connection)
        return url

    def _emptied(self, url: str) -> bool:
        """Disconnects everybody else and deletes the rows; whether the database is then as a new one is."""
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute(OTHERS)
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


def _state(connection: psycopg.Connection) -> tuple[Any, ...]:
    found = connection.execute(f"SELECT ({SHAPE}), pg_database_size(current_database())").fetchone()
    assert found is not None
    return found
