"""What an operator got wrong ends a command with one sentence and code 1; a traceback is left for bugs of ours."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.errors import PermafrostError

#: Of files and folders that are not as they should be; other system errors may be bugs.
_PLACES: Final = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Around a whole command."""
    try:
        yield
    except PermafrostError as error:
        raise SystemExit(error.message) from None
    except ValidationError as error:
        if error.title != "Settings":
            raise
        raise SystemExit(_setting(error)) from None
    except (OperationalError, ProgrammingError) as error:
        raise SystemExit(_database(error)) from None
    except OSError as error:
        if error.errno not in _PLACES | _FULL or error.filename is None:
            raise
        raise SystemExit(_place(error)) from None


def _setting(error: ValidationError) -> str:
    return "; ".join(f"PERMAFROST_{str(each['loc'][0]).upper()}: {_plain(each['msg'])}" for each in error.errors())


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _database(error: OperationalError | ProgrammingError) -> str:
    reason = str(error.orig).strip().splitlines()[0]
    if isinstance(error, ProgrammingError) or "no such table" in reason:
        return f"the database is not as this version needs it ({reason}): run `permafrost migrate`"
    return f"the database (PERMAFROST_DATABASE_URL, or the data folder) cannot be used: {reason}"


def _place(error: OSError) -> str:
    if error.errno in _FULL:
        return f"{error.filename}: no room left on the device"
    return f"{error.filename}: {error.strerror}; PERMAFROST_DATA_DIR has to be a folder that this user may write to"
