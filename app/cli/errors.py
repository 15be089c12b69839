"""Operator mistakes end a command with one sentence and exit code 1; tracebacks are for bugs in Permafrost."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from app.errors import PermafrostError

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

#: Errors of files and folders that an operator can fix; other system errors may be bugs.
_PATH_ERRORS: Final = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS}
_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Turn an operator's mistake, in the block, into SystemExit with a message. Wraps a whole command."""
    try:
        yield
    except PermafrostError as error:
        raise SystemExit(error.message) from None
    except ValidationError as error:
        if error.title != "Settings":
            raise
        raise SystemExit(_settings_message(error)) from None
    except _database_errors() as error:
        raise SystemExit(_database_message(error)) from None
    except OSError as error:
        if error.errno not in _PATH_ERRORS | _DISK_FULL or error.filename is None:
            raise
        raise SystemExit(_path_message(error)) from None


def _settings_message(error: ValidationError) -> str:
    return "; ".join(f"PERMAFROST_{str(item['loc'][0]).upper()}: {_plain(item['msg'])}" for item in error.errors())


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _database_errors() -> tuple[type[DBAPIError], ...]:
    """Those of the database, in a command that has imported it: most have not, and start sooner without."""
    exc = sys.modules.get("sqlalchemy.exc")
    return () if exc is None else (exc.OperationalError, exc.ProgrammingError)


def _database_message(error: DBAPIError) -> str:
    from sqlalchemy.exc import ProgrammingError

    reason = str(error.orig).strip().splitlines()[0]
    if isinstance(error, ProgrammingError) or "no such table" in reason:
        return f"the database tables do not match this version ({reason}): run `permafrost migrate`"
    return f"cannot use the database (PERMAFROST_DATABASE_URL, or the data folder): {reason}"


def _path_message(error: OSError) -> str:
    if error.errno in _DISK_FULL:
        return f"{error.filename}: no space left on the device"
    return f"{error.filename}: {error.strerror}; PERMAFROST_DATA_DIR must be a folder that this user can write to"
