"""Typed access to fields of a policy's JSON. PolicyError gives the path of a wrong field and what would be valid."""

import re
from collections.abc import Mapping
from typing import Any

from app.errors import PolicyError
from app.jsontypes import JsonDict

MAX_STRINGS = 10_000  # patterns in one selector
MAX_RANGES = 10_000  # row ranges in one rule, intervals in one schedule
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def given(value: Any, at: str, allowed: tuple[str, ...]) -> JsonDict:
    """The keys that have a value; null means that the key is left out."""
    keys(value, at, allowed)
    return {key: item for key, item in value.items() if item is not None}


def keys(value: Any, at: str, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, Mapping):
        raise PolicyError(f"must be an object, not {kind_of(value)}", param=at)
    for key in value:
        if key in allowed:
            continue
        import difflib  # only for a message: a verifier starts without it

        nearest = difflib.get_close_matches(str(key), allowed, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(allowed)}"
        raise PolicyError(f"unknown key {str(key)!r}; {hint}", param=f"{at}.{key}")


def entries(value: Any, at: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise PolicyError("must be a list with at least one entry", param=at)
    if len(value) > MAX_RANGES:
        raise PolicyError(f"{len(value)} entries; at most {MAX_RANGES}", param=at)
    return value


def strings(value: Any, at: str, check: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (string(value, at, check),)
    if not isinstance(value, list | tuple) or not value:
        raise PolicyError("must be a string or a list with at least one string", param=at)
    if len(value) > MAX_STRINGS:
        raise PolicyError(f"{len(value)} entries; at most {MAX_STRINGS}", param=at)
    return tuple(dict.fromkeys(string(item, f"{at}[{i}]", check) for i, item in enumerate(value)))


def string(value: Any, at: str, check: Any) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"must be a string, not {kind_of(value)}", param=at)
    try:
        value.encode()
        check(value)
    except UnicodeEncodeError as error:
        raise PolicyError("contains half of a surrogate pair, which is not text", param=at) from error
    except ValueError as error:
        raise PolicyError(str(error), param=at) from error
    return value


def identifier(value: Any, at: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise PolicyError("an id is 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first", param=at)
    if value == "default":
        raise PolicyError("'default' is the id of what no rule decides; choose another", param=at)
    return value


def choice(value: Any, at: str, allowed: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise PolicyError(f"must be one of {', '.join(repr(item) for item in allowed)}, not {_shown(value)}", param=at)


def boolean(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"must be true or false, not {_shown(value)}", param=at)
    return value


def integer(value: Any, at: str, least: int) -> int:
    if type(value) is not int or not least <= value < 2**53:
        most = " and below 2**53" if type(value) is int and value >= 2**53 else ""
        raise PolicyError(f"must be a whole number of at least {least}{most}, not {_shown(value)}", param=at)
    return value


def kind_of(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
