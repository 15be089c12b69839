"""A file while it arrives: its bytes, which version of the source they are of, and the bounds on size and slowness."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

#: A source that sends less than this over a minute is given up until later.
SLOWEST: Final = 1_000 * 60
_MINUTE: Final = 60.0


class SourceRefused(Exception):
    """What will be refused again: the source, its answer, or what it holds."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class Later(Exception):
    """The source is away, cut off, busy or too slow; later it may not be."""


@dataclass(slots=True)
class Arriving:
    """A file at `path` that goes on where an earlier try ended, if the source still has the same `version`."""

    path: Path
    max_bytes: int
    size: int = 0
    #: Where the version is kept; absent: beside the file.
    note: Path | None = None
    _file: BinaryIO | None = None
    _minute: tuple[float, int] = field(default=(0.0, 0))

    def known_version(self) -> str | None:
        """The version of the bytes that an earlier try left; None without any."""
        try:
            version: str | None = json.loads(self._note.read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if version and self.path.is_file() else None

    def begin(self, version: str | None) -> int:
        """From which byte on to fetch: 0, or behind those that are there of this very version."""
        self.close()
        same = version is not None and version == self.known_version()
        self._file = self.path.open("ab" if same else "wb")
        self.size = self._file.tell()
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(json.dumps({"version": version}))
        self._minute = (time.monotonic(), self.size)
        return self.size

    def write(self, data: bytes) -> None:
        """Raises SourceRefused beyond the bound, and Later where too little has come in the last minute."""
        assert self._file is not None
        self.size += len(data)
        self.refuse_large(self.size)
        self._file.write(data)
        began, before = self._minute
        if time.monotonic() - began > _MINUTE:
            if self.size - before < SLOWEST:
                raise Later(f"only {self.size - before:,} bytes came within a minute")
            self._minute = (time.monotonic(), self.size)

    def refuse_large(self, size: int) -> None:
        """Raises SourceRefused for more bytes than a file may have."""
        if size > self.max_bytes:
            most = f"a file may have {self.max_bytes:,} (PERMAFROST_MAX_UPLOAD_BYTES)"
            raise SourceRefused(f"it has {size:,} bytes or more, and {most}", code="file_too_large")

    def forget(self) -> None:
        """The next try begins anew."""
        self._note.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def _note(self) -> Path:
        return self.note or self.path.with_name(f"{self.path.name}.version")
