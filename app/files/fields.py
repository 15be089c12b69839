"""Checks the values of an example's fields: texts, numbers, nested JSON. Problems are noted with line and field."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.files.problems import LineProblem, kind_of

#: Levels of objects and arrays in a value, far below where Python gives up.
MAX_DEPTH: Final = 50
#: Of float32, in which numbers are trained.
LARGEST: Final = 3.4028234663852886e38
_DECIMAL_COMMA: Final = re.compile(r"'[+-]?\d+,\d+'")


@dataclass(kw_only=True)
class FieldChecks:
    """Checks values one by one, and notes what is wrong with the record of `line` in `problems`.

    Every check returns a value of its type, also for a bad one, so that the rest of the record is checked too.
    """

    text_numbers: bool = False  # CSV: numbers are text
    problems: list[LineProblem] = field(default_factory=list)
    line: int = 0

    def note(self, name: str | None, code: str, message: str) -> None:
        self.problems.append(LineProblem(self.line, name, code, message))

    def text(self, name: str, value: Any, *, empty: bool = False) -> str:
        if is_plain(value):
            return str(value)
        if not isinstance(value, str):
            self.note(name, "wrong_type", f"'{name}' is {kind_of(value)}; it must be a string")
            return ""
        if not empty and not value.strip():
            self.note(name, "empty_value", f"'{name}' is empty")
        self.refuse_no_text(name, value)
        return value

    def refuse_no_text(self, name: str, value: str) -> None:
        """Characters that neither a tokenizer nor a file of a result can hold."""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            message = f"'{name}' contains half of a surrogate pair at character {error.start}, which is not text"
            self.note(name, "not_unicode", message)
        if "\0" in value:
            self.note(name, "nul_byte", f"'{name}' contains a NUL character; remove it")

    def number(self, name: str, value: Any) -> float:
        if self.text_numbers and isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = f"'{value:.40}'" if isinstance(value, str) and value.strip() else "empty"
            what = what if isinstance(value, str) else kind_of(value)
            point = "; write a point in place of the comma" if _DECIMAL_COMMA.fullmatch(what) else ""
            self.note(name, "not_a_number", f"'{name}' is {what}; it must be a number{point}")
            return 0.0

        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.note(name, "not_finite", f"'{name}' is {number}; numbers must be finite (leave the example out)")
        elif abs(number) > LARGEST:
            message = f"'{name}' is {number:.6g}, beyond float32, which ends at {LARGEST:.6g}; scale such numbers"
            self.note(name, "too_large", message)
        return number

    def parsed_json(self, name: str, value: str) -> Any:
        """The value that a text holds as JSON; None where it holds none, which is noted."""
        try:
            return json.loads(value)
        except RecursionError:
            self.note(name, "too_deep", f"'{name}' is nested too deeply")
        except ValueError as error:  # also an integer of thousands of digits
            reason = (
                f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else "a number"
            )
            self.note(name, "not_json", f"'{name}' is a text that is not JSON: {reason}")
        return None

    def refuse_no_json(self, name: str, value: Any) -> None:
        """Notes what in a nested value could not be written as JSON and read again, or is no text."""
        level = [value]
        for _ in range(MAX_DEPTH):
            if not level:
                return
            keys = [key for part in level if isinstance(part, dict) for key in part]
            inner = [part for each in level for part in _parts(each)]
            for part in (*keys, *level):
                if not self._is_json(name, part):
                    return
            level = inner
        if level:
            self.note(name, "too_deep", f"'{name}' is nested more than {MAX_DEPTH} levels deep")

    def _is_json(self, name: str, value: Any) -> bool:
        """Whether one value, whatever it contains, is of JSON; notes what it is else."""
        before = len(self.problems)
        if isinstance(value, str):
            self.refuse_no_text(name, value)
        elif isinstance(value, float) and not math.isfinite(value):
            self.note(name, "not_finite", f"'{name}' contains {value}, which JSON cannot hold")
        elif value is not None and not isinstance(value, bool | int | float | dict | list):
            self.note(name, "wrong_type", f"'{name}' contains {kind_of(value)}; it must be a value of JSON")
        return len(self.problems) == before


def without_nulls(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record without its null fields: Parquet fills every struct up with them."""
    if any(value is None for value in record.values()):
        return {name: value for name, value in record.items() if value is not None}
    return record


def is_plain(value: Any) -> bool:
    """Whether a value is a text without anything to note, seen without copying it."""
    return type(value) is str and value.isascii() and value != "" and not value.isspace() and "\0" not in value


def are_finite(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers of float32: most rows are, and need no name for each of their values."""
    try:
        finite = set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:
        return False
    return finite and (not values or (max(values) <= LARGEST and min(values) >= -LARGEST))


def _parsed(text: str) -> float | str:
    """A CSV cell as a number, else the text itself. Python's digit grouping (1_000) does not count as a number."""
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _parts(value: Any) -> Iterable[Any]:
    """The values in an object or an array."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
