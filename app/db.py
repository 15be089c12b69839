"""Engine, sessions, column types, and which errors mean that the database is away or busy. For API and worker."""

import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import JSON, Dialect, Engine, MetaData, Select, String, create_engine, event, make_url, select, text
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as WaitTimeout
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

Row = TypeVar("Row")

#: On SQLite, how long a writer waits for writers of other processes, and for those before it in this process.
BUSY_SECONDS = 20.0
QUEUE_SECONDS = 30.0

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
            raise ValueError("the database stores no naive datetimes: give this one a time zone")
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
    """The engine and its transactions. On SQLite there are two engines, so that readers never take the write lock."""

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
        self._queue = WriteQueue() if self.sqlite else None
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        self._read = sessionmaker(reader, expire_on_commit=False)
        self._engines = (self.engine, reader)

    @property
    def sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._queue.turn() if self._queue else nullcontext(), self._write.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading."""
        with self._read() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session whose reads all see the same moment; also needed for cursors over results larger than memory."""
        with self._read() as session:
            if not self.sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @property
    def writers(self) -> sessionmaker[Session]:
        """The factory of the sessions of write transactions, for listeners to their events."""
        return self._write

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


class WriteQueue:
    """Admits one writer of this process at a time, in the order of arrival.

    SQLite has one writer at a time and no queue: waiting connections try again at intervals, and the unlucky fail.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for the writers before this one. Raises SQLAlchemy's TimeoutError after QUEUE_SECONDS."""
        admitted = threading.Event()
        with self._lock:
            if self._busy:
                self._waiting.append(admitted)
            else:
                self._busy = True
                admitted.set()

        if not admitted.wait(QUEUE_SECONDS):
            with self._lock:
                if not admitted.is_set():
                    self._waiting.remove(admitted)
                    raise WaitTimeout(f"the writers before this one took more than {QUEUE_SECONDS:g} seconds")
        try:
            yield
        finally:
            self._admit_next()

    def _admit_next(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._busy = False


def now(session: Session) -> datetime:
    """The database's clock, which takes precedence over the clocks of API and worker machines."""
    if session.get_bind().dialect.name == "sqlite":
        # SQLite runs inside this process; its clock is this machine's.
        return datetime.now(UTC)
    value: datetime = session.execute(select(text("clock_timestamp()"))).scalar_one()
    return value.astimezone(UTC)


#: Many transactions at once may need a row to stay; only one may remove it.
Lock = Literal["keep", "remove"]


def locked(statement: Select[Row], lock: Lock | None) -> Select[Row]:
    """The same rows; with `lock`, those who keep them and one who removes them wait for each other's transactions.

    SQLite has one writer at a time, so there it is enough to look again within the transaction.
    """
    return statement if lock is None else statement.with_for_update(read=lock == "keep")


def is_full(error: DBAPIError) -> bool:
    """Whether the database had no space to write: the disk is full, or a limit of its size is reached."""
    original: Any = error.orig
    return getattr(original, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(original, "sqlstate", "") == "53100"


#: Error codes that another attempt may not meet, by their beginnings. PostgreSQL: connections, resources, operators,
#: locks, time limits, deadlocks, a standby that was asked to write; and none at all where there is no connection.
_SQLITE_UNAVAILABLE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PROTOCOL")
_POSTGRES_UNAVAILABLE = ("08", "53", "57", "55P03", "40", "25P0", "25006", "58")


def is_unavailable(error: SQLAlchemyError) -> bool:
    """Whether the database is away or busy, so that the same request may succeed later."""
    if isinstance(error, WaitTimeout):
        return True
    if not isinstance(error, DBAPIError) or is_full(error):
        return False
    if error.connection_invalidated:
        return True

    original: Any = error.orig
    sqlite_name: str = getattr(original, "sqlite_errorname", "")
    if sqlite_name:
        return sqlite_name.startswith(_SQLITE_UNAVAILABLE)
    sqlstate: str | None = getattr(original, "sqlstate", "none")
    if sqlstate is None:
        return isinstance(error, OperationalError | InterfaceError)
    return sqlstate.startswith(_POSTGRES_UNAVAILABLE)


def new_id(prefix: str) -> str:
    """`prefix-` and 96 random bits: unguessable, and unique without asking the database."""
    return f"{prefix}-{secrets.token_hex(12)}"


def _sqlite_engine(url: str, *, begin: str) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: deferred ones fail with "database is locked".
        connection.isolation_level = None
        for pragma in (f"busy_timeout={BUSY_SECONDS * 1000:.0f}", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()
        _enter_wal(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _enter_wal(connection: Any) -> None:
    """Switches the file to a write-ahead log, if it has none yet.

    Two processes that open a new file at once both want to write its header, and SQLite gives up on one of them without
    waiting: there the busy timeout has no effect.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
        time.sleep(0.05)


#: libpq's options against a network that drops packets, which by default looks like a slow database for 15 minutes.
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
        hide_parameters=True,  # errors are logged, and parameters are users' data
        pool_size=5,
        max_overflow=5,
        pool_timeout=5,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"options": options, "connect_timeout": 5, **SILENT_NETWORK},
    )
