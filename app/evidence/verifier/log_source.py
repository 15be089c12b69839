"""Reads a transparency log from where it is served: a folder of its files, or a URL such as https://host/v1/log.

Nothing that it reads is trusted: what is made of it has to lead to a signed root.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.evidence.format.note import MAX_NOTE
from app.evidence.format.tiles import HASH, MAX_ENTRY, WIDTH, TileError, TilePath, Tree, bundle, entries_of
from app.evidence.verifier.context import CannotCheck

_SECONDS: Final = 30.0
_LARGEST: Final = WIDTH * (MAX_ENTRY + 2)  # a bundle of entries


@dataclass(frozen=True, slots=True)
class LogSource:
    """A log by its address."""

    place: str

    def checkpoint(self) -> bytes:
        """The newest signed checkpoint. Raises CannotCheck."""
        raw = self._get("checkpoint", limit=MAX_NOTE)
        if raw is None:
            raise CannotCheck(f"{self.place} has no checkpoint: is this the folder, or the URL, of a log with entries?")
        return raw

    def tree(self, size: int) -> Tree:
        return Tree(size, self._read)

    def entries(self, size: int) -> Iterator[bytes]:
        """Every entry of a log of this size. Raises TileError where some are missing."""
        for index in range(-(-size // WIDTH)):
            width = min(WIDTH, size - index * WIDTH)
            found = entries_of(self._file(TilePath(None, index, width)))
            if len(found) != width:
                raise TileError(f"{TilePath(None, index, width)} has {len(found)} entries")
            yield from found

    def _read(self, level: int, index: int, width: int) -> bytes:
        path = TilePath(level, index, width)
        raw = self._file(path)
        if len(raw) != width * HASH:
            raise TileError(f"{path} has {len(raw)} bytes instead of {width * HASH}")
        return raw

    def _file(self, path: TilePath) -> bytes:
        raw = self._get(str(path), limit=_LARGEST)
        if raw is None and path.width < WIDTH:  # it may be full by now, and its parts gone
            whole = self._get(str(TilePath(path.level, path.index)), limit=_LARGEST)
            if whole is not None and path.level is not None:
                raw = whole[: path.width * HASH]
            elif whole is not None:
                raw = bundle(entries_of(whole)[: path.width])
        if raw is None:
            raise TileError(f"{path} is missing")
        return raw

    def _get(self, path: str, *, limit: int) -> bytes | None:
        """A file of the log; None where it is not there. Raises CannotCheck where the log does not answer."""
        if not self.place.startswith(("http://", "https://")):
            try:
                with (Path(self.place) / path).open("rb") as file:
                    if os.fstat(file.fileno()).st_size > limit:
                        raise TileError(f"{path} has more than {limit} bytes")
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise CannotCheck(f"{self.place}: {error.strerror}") from None
        key = os.environ.get("PERMAFROST_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            request = urllib.request.Request(f"{self.place.rstrip('/')}/{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                raw: bytes = answer.read(limit)
                return raw
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            hint = "; PERMAFROST_API_KEY has to be a key of it" if error.code in (401, 403) else ""
            raise CannotCheck(f"{self.place} answered with status {error.code}{hint}") from None
        except (OSError, ValueError) as error:
            raise CannotCheck(f"{self.place} does not answer: {error}") from None
