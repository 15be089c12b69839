"""JSON files that are one array of objects, as many data sets are published; read object by object."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from app.files.problems import LineProblem

_CHUNK: Final = 1 << 16
#: A whole string, a string that has not ended yet, or a bracket.
_PIECE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NOT_AN_OBJECT: Final = "is not an object; an array of a training file holds one object for each example"


def objects_of(path: Path, *, max_object: int) -> Iterator[tuple[int, str] | LineProblem]:
    """Yield (line, text) of each object of the array. An array on one line counts its objects in place of lines.

    Ends with a problem where the file is no array of objects, or an object has more than `max_object` characters.
    """
    with path.open("rb") as file:
        text = _Text(file)
        try:
            text.begin()
            yield from _objects(text, max_object)
        except UnicodeDecodeError as error:
            byte, offset = error.object[error.start], text.read - len(error.object) + error.start
            message = f"byte 0x{byte:02x} at offset {offset} of the file is not UTF-8; save the file as UTF-8"
            yield LineProblem(text.line, None, "not_utf8", message)


def _objects(text: "_Text", max_object: int) -> Iterator[tuple[int, str] | LineProblem]:
    number = 0
    while (first := text.next()) != "]":
        if number and first == ",":
            text.take(1)
            first = text.next()
        elif number:
            yield LineProblem(text.line, None, "not_json", "is not JSON: a comma is missing between two objects")
            return
        number += 1
        line = text.line if text.has_lines else number
        if first != "{":
            message = "the file ends before its array is closed by ']'" if not first else _NOT_AN_OBJECT
            yield LineProblem(line, None, "not_json" if not first else "not_an_object", message)
            return
        size = text.length_of_object(max_object)
        if size is None:
            message = "is not JSON: the file ends inside the object that begins here"
            yield LineProblem(line, None, "not_json", message)
            return
        if size > max_object:
            message = f"has more than {max_object:,} characters, the most for an example (Parquet has no such limit)"
            yield LineProblem(line, None, "line_too_long", message)
            return
        yield line, text.take(size)
    text.take(1)
    if text.next():
        yield LineProblem(text.line, None, "not_json", "is not JSON: more follows after the array's end")


class _Text:
    """The text of a file from a place on, as much of it as is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self.read = 0  # bytes
        self.line = 1
        self.has_lines = False

    def begin(self) -> None:
        """Goes on behind the opening bracket."""
        self.next()
        self.has_lines = "\n" in self._text[self._at :].rstrip()
        self.take(1)

    def next(self) -> str:
        """The next character that is no space; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self.take(match.end() - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, size: int) -> str:
        """The next characters, and go on behind them."""
        taken = self._text[self._at : self._at + size]
        self._at += size
        self.line += taken.count("\n")
        return taken

    def length_of_object(self, most: int) -> int | None:
        """The length of the object that begins here; more than `most` where it is longer; None where it has no end."""
        depth, scanned = 0, 0
        while True:
            piece = _PIECE.search(self._text, self._at + scanned)
            if piece is None or piece.group() == '"':
                scanned = (len(self._text) if piece is None else piece.start()) - self._at
                if len(self._text) - self._at > most:
                    return most + 1
                if not self._more():
                    return None
                continue
            scanned = piece.end() - self._at
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(piece.group(), 0)
            if depth == 0:
                return scanned

    def _more(self) -> bool:
        """Reads on; False at the end of the file."""
        chunk = self._file.read(_CHUNK)
        self.read += len(chunk)
        added = self._decoder.decode(chunk, final=not chunk)
        self._text, self._at = self._text[self._at :] + added, 0
        return bool(chunk)
