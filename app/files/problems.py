"""Problems of training files, and the words in which they are reported."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.errors import DataError
from app.jsontypes import JsonDict

_MAX_CANDIDATES: Final = 100_000
#: How Python prints an object without a text of its own, such as <_io.BytesIO object at 0x7f…>.
_OBJECT: Final = re.compile(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong, where, and what would work. `line` counts from 1; in Parquet it is the row, in a
    JSON array on one line the object."""

    line: int | None
    field: str | None
    code: str
    message: str

    def __post_init__(self) -> None:
        # What is quoted from a file may be no text, and an answer or a row has to be.
        object.__setattr__(self, "field", None if self.field is None else _as_text(self.field))
        object.__setattr__(self, "message", _as_text(self.message))

    def to_json(self) -> JsonDict:
        return {"line": self.line, "field": self.field, "code": self.code, "message": self.message}


class ProblemList:
    """The first problems of a file, and the total number."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.first: list[LineProblem] = []

    @classmethod
    def of(cls, problems: Sequence[LineProblem]) -> "ProblemList":
        listed = cls(100)
        for problem in problems:
            listed.add(problem)
        return listed

    def add(self, problem: LineProblem) -> None:
        self.total += 1
        if len(self.first) < self.limit:
            self.first.append(problem)

    def take(self, problems: list[LineProblem]) -> None:
        """Adds them and empties their list."""
        for problem in problems:
            self.add(problem)
        problems.clear()

    def error(self, param: str) -> DataError:
        first = self.first[0]
        where = "" if first.line is None else f"line {first.line}: "
        count = "1 problem" if self.total == 1 else f"{self.total:,} problems"
        listed = f"; the first {len(self.first)} are listed" if self.total > len(self.first) else ""
        what = "validation" if param == "validation_file" else "training"
        message = f"{count} in the {what} data{listed}. {where}{first.message}"
        return DataError(message, param=param, errors=[problem.to_json() for problem in self.first])


def _as_text(quoted: str) -> str:
    """Half surrogate pairs and NUL characters written out as escapes."""
    return quoted.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object", bytes: "binary"}
    return names.get(type(value), f"a {type(value).__name__}")


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean ...?)', or an empty string when no word is close."""
    close = difflib.get_close_matches(word, list(words)[:_MAX_CANDIDATES], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, without addresses of objects, at most 200 characters."""
    line = _OBJECT.sub("", (str(error).splitlines() or [""])[0]).strip()
    return line[:200] or type(error).__name__
