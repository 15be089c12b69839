"""Typed access to fields of parsed JSON. StatementError gives the path of a field that is missing or mistyped."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_HEX = re.compile(r"[0-9a-f]{64}")


class StatementError(ValueError):
    """A payload that is not a statement of ours."""


def as_object(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise StatementError(f"{at}: not an object")
    return value


def field_of(value: Mapping[str, Any], name: str, at: str) -> Any:
    if name not in value:
        raise StatementError(f"{at}.{name}: missing")
    return value[name]


def as_list(value: Mapping[str, Any], name: str, at: str) -> list[Any]:
    found = field_of(value, name, at)
    if not isinstance(found, list):
        raise StatementError(f"{at}.{name}: not a list")
    return found


def optional_list(value: Mapping[str, Any], name: str, at: str) -> list[Any]:
    return [] if value.get(name) is None else as_list(value, name, at)


def text(value: Mapping[str, Any], name: str, at: str) -> str:
    found = field_of(value, name, at)
    if not isinstance(found, str):
        raise StatementError(f"{at}.{name}: not a string")
    return found


def optional_text(value: Mapping[str, Any], name: str, at: str) -> str | None:
    return None if value.get(name) is None else text(value, name, at)


def texts(value: Mapping[str, Any], name: str, at: str) -> tuple[str, ...]:
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise StatementError(f"{at}.{name}: not a list of strings")
    return tuple(found)


def one_of(value: Mapping[str, Any], name: str, at: str, allowed: Sequence[str]) -> str:
    found = text(value, name, at)
    if found not in allowed:
        raise StatementError(f"{at}.{name}: {found!r} is not one of {', '.join(allowed)}")
    return found


def flag(value: Mapping[str, Any], name: str, at: str) -> bool:
    found = field_of(value, name, at)
    if not isinstance(found, bool):
        raise StatementError(f"{at}.{name}: not true or false")
    return found


def count(value: Mapping[str, Any], name: str, at: str) -> int:
    found = field_of(value, name, at)
    if not _is_count(found):
        raise StatementError(f"{at}.{name}: not a whole number from 0 to 2^63")
    return int(found)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # True is an int, too


def shape(value: Mapping[str, Any], name: str, at: str) -> tuple[int, ...]:
    found = as_list(value, name, at)
    if not all(_is_count(size) for size in found):
        raise StatementError(f"{at}.{name}: not a list of whole numbers")
    return tuple(found)


def pair(value: Any, at: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_count(entry) for entry in value):
        raise StatementError(f"{at}: not two whole numbers")
    return value[0], value[1]


def hex(value: Mapping[str, Any], name: str, at: str) -> str:
    found = text(value, name, at)
    if not _HEX.fullmatch(found):
        raise StatementError(f"{at}.{name}: not a SHA-256 in lower-case hex")
    return found


def is_hex(value: Any) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return type(value) is str and _HEX.fullmatch(value) is not None


def optional_hex(value: Mapping[str, Any], name: str, at: str) -> str | None:
    return None if value.get(name) is None else hex(value, name, at)


def digest(value: Mapping[str, Any], name: str, at: str) -> str:
    return hex(as_object(field_of(value, name, at), f"{at}.{name}"), "sha256", f"{at}.{name}")
