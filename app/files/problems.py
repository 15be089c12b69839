"""Problems of training files, and the words in which they are reported."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

_MAX_CANDIDATES: Final = 100_000


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong, where, and what would work. `line` counts from 1; in Parquet it is the row."""

    line: int | None
    field: str | None
    code: str
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "field": self.field, "code": self.code, "message": self.message}


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
    """The first line of a library's error message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
