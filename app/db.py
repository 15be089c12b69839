"""Engine, sessions and column types; the same synchronous session serves the API and the worker."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import JSON, Dialect, Engine, MetaData, Select, String, create_engine, event, make_url, select, text
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

Row = TypeVar("Row")

#: Explicit names for constraints, so that migrations can drop them on every database.
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime. SQLite drops time zones, so it gets fixed-width text that sorts by time."""

    impl = SqlDateTime(timezone=True)
    cache_ok = True
    FORMAT = "%Y-%m-%d %H:%M:%S.%f"

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(26))
        return dialect.type_descriptor(SqlDateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the database: give it a time zone")
        value = value.astimezone(UTC)
        return value.strftime(self.FORMAT) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.strptime(value, self.FORMAT).replace(tzinfo=UTC)
        return value.astimezone(UTC)  # type: ignore[no-any-return]


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own hook


class Database:
    """One engine (two on SQLite: readers never take the write lock) and the transactions over it."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        if self.sqlite:
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = _sqlite_engine(url, begin="BEGIN IMMEDIATE")
            reader = _sqlite_engine(url, begin="BEGIN")
        else:
            self.engine = _postgres_engine(url)
            # Reads are single statements, each with its own snapshot either way: BEGIN and ROLLBACK would only double
            # the round trips of a poll. Same pool.
            reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(reader, expire_on_commit=False)
        self._engines = (self.engine, reader)

    @property
    def sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._write.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._read() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Reads that all see one moment; for results larger than memory, too, whose cursors live in a transaction."""
        with self._read() as session:
            if not self.sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @property
    def writers(self) -> sessionmaker[Session]:
        """What makes the sessions of write transactions; for those who listen to their events."""
        return self._write

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


def now(session: Session) -> datetime:
    """The database's clock, which rules over the clocks of API and worker machines."""
    if session.get_bind().dialect.name == "sqlite":
        # SQLite runs inside this process; its clock is this machine's.
        return datetime.now(UTC)
    value: datetime = session.execute(select(text("clock_timestamp()"))).scalar_one()
    return value.astimezone(UTC)


#: Those who need a row to stay are many at once; who removes it is alone.
Lock = Literal["keep", "remove"]


def locked(statement: Select[Row], lock: Lock | None) -> Select[Row]:
    """The same rows, and with `lock` keepers and a remover of them wait for each other until their transactions end.

    SQLite has one writer at a time, so there it is enough to look again within the transaction.
    """
    return statement if lock is None else statement.with_for_update(read=lock == "keep")


def is_full(error: DBAPIError) -> bool:
    """Whether the database had no room to write: the disk is full, or a limit that was set for it is reached."""
    original: Any = error.orig
    return getattr(original, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(original, "sqlstate", "") == "53100"


def new_id(prefix: str) -> str:
    """`prefix-` and 96 random bits: unguessable, and unique without asking the database."""
    return f"{prefix}-{secrets.token_hex(12)}"


def _sqlite_engine(url: str, *, begin: str) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": 5.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver must not open transactions by itself: deferred ones fail with "database is locked".
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "busy_timeout=5000", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


#: A network that swallows packets looks like a slow database, for a quarter of an hour by default. These are libpq's.
SILENT_NETWORK = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def _postgres_engine(url: str) -> Engine:
    options = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s"
    return create_engine(
        url,
        hide_parameters=True,  # errors end up in logs, and parameters are other people's data
        pool_size=5,
        max_overflow=5,
        pool_timeout=5,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"options": options, "connect_timeout": 5, **SILENT_NETWORK},
    )
