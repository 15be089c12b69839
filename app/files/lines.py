"""Text files as numbered lines in constant memory, and JSONL as records: one dict per line, or its problem.

A file that is one JSON array has a record for each of its objects.
"""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.files.json_arrays import objects_of
from app.files.problems import LineProblem, kind_of

#: Bytes of a line.
MAX_LINE: Final = 1_000_000
#: Of a line with pictures in it, as base64.
MAX_PICTURE_LINE: Final = 16_000_000
#: Bytes in which a line end must occur to be recognised.
_HEAD: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")

#: Line (in Parquet, row) from 1, and the fields.
Record = tuple[int, Mapping[str, Any]]


def read_jsonl(path: Path, *, max_line: int = MAX_LINE) -> Iterator[Record | LineProblem]:
    """Yield one record per line, or per object of a file that is one array; blank lines are skipped."""
    lines = objects_of(path, max_object=max_line) if _is_array(path) else text_lines(path, max_line=max_line)
    for line in lines:
        if isinstance(line, LineProblem):
            yield line
        elif line[0] == 1 and line[1].strip() == "{":
            message = "an object is spread over several lines; write one object per line, or an array of objects"
            yield LineProblem(1, None, "not_json", message)
            return
        elif line[1].strip():
            yield _json_record(*line)


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_HEAD).removeprefix(_BOM).lstrip().startswith(b"[")


def _json_record(number: int, text: str) -> Record | LineProblem:
    try:
        value = _DECODER.decode(text)
    except _DuplicateKeyError as error:
        return LineProblem(number, str(error), "duplicate_key", f"the key '{error}' occurs twice in one object")
    except RecursionError:
        return LineProblem(number, None, "too_deep", "is nested too deeply; an example is flat")
    except json.JSONDecodeError as error:
        return LineProblem(number, None, "not_json", f"is not JSON: {error.msg} at character {error.colno}")
    except ValueError:  # an integer of thousands of digits
        return LineProblem(number, None, "not_json", "contains a number with too many digits")

    if not isinstance(value, dict):
        advice = "write one object per line"
        return LineProblem(number, None, "not_an_object", f"is {kind_of(value)}, not an object; {advice}")
    return number, value


class _DuplicateKeyError(ValueError):
    """A JSON object has one key twice."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return record


#: Made once: `json.loads` makes one for each line.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_duplicates)


def text_lines(path: Path, *, max_line: int = MAX_LINE) -> Iterator[tuple[int, str] | LineProblem]:
    """Yield (line number, text without its line end), or the problem of a line that is not text."""
    offset = 0
    with path.open("rb") as file:
        if _is_utf16(file.read(4)):
            yield LineProblem(1, None, "not_utf8", "the file is UTF-16; save it as UTF-8")
            return

        file.seek(0)
        lines = io.BufferedReader(_CarriageReturns(file)) if _ends_lines_with_cr(file) else file
        for number in range(1, 2**63):
            line = lines.readline(max_line + 2)
            if not line:
                return
            length = len(line)
            if length > max_line and not line.endswith(b"\n"):
                while (more := lines.readline(max_line)) and not more.endswith(b"\n"):
                    length += len(more)
                length += len(more)
                message = f"has {length:,} bytes; a line has at most {max_line:,} (Parquet has no such limit)"
                yield LineProblem(number, None, "line_too_long", message)
            else:
                yield _decode(number, line, offset)
            offset += length


def _is_utf16(head: bytes) -> bool:
    """By the byte order mark, or by every other of the first four bytes."""
    zeros = (head[0::2] == b"\0\0", head[1::2] == b"\0\0")
    return head[:2] in _UTF16_BOMS or (len(head) == 4 and zeros[0] != zeros[1])


def _ends_lines_with_cr(file: BinaryIO) -> bool:
    """Whether lines end as old spreadsheets on a Mac write them."""
    head = file.read(_HEAD)
    file.seek(0)
    return b"\r" in head.rstrip(b"\r") and b"\n" not in head


class _CarriageReturns(io.RawIOBase):
    """A file whose carriage returns are read as line feeds."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)


def _decode(number: int, line: bytes, offset: int) -> tuple[int, str] | LineProblem:
    start = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
    if b"\0" in line:
        position = offset + line.index(b"\0")
        message = f"contains a NUL byte at offset {position} of the file; remove it"
        return LineProblem(number, None, "nul_byte", message)
    try:
        return number, line[start:].decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte, position = line[start + error.start], offset + start + error.start
        message = f"byte 0x{byte:02x} at offset {position} of the file is not UTF-8; save the file as UTF-8"
        return LineProblem(number, None, "not_utf8", message)
