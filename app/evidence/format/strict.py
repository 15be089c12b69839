"""Strict JSON: refuses or reports everything that two JSON readers may understand differently.

An object remembers its repeated keys (`repeated`), so that a caller can refuse them and name their path.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
MAX_DEPTH = 64  # levels of nested lists and objects, so that recursive readers of a document are safe


class JsonError(ValueError):
    """Bytes that are not one JSON document in UTF-8, or that hold something JSON readers disagree on."""


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which of its keys were written more than once (the last value is kept)."""

    repeated: tuple[str, ...] = ()
    unambiguous = False  # True for a document of which no object has a repeated key


def read_json(raw: bytes) -> Any:
    """Parse UTF-8 JSON. Raises JsonError, also for NaN, Infinity, lone surrogates, long numbers and deep nesting."""
    ambiguous: list[JsonObject] = []
    try:
        hook = partial(_object, ambiguous)
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=hook, parse_constant=_constant)
        if b"\\u" in raw:
            json.dumps(document, ensure_ascii=False).encode("utf-8")  # a lone surrogate has no UTF-8 form
    except RecursionError:
        raise JsonError("nested too deeply to be read") from None
    except UnicodeError as error:
        raise JsonError(f"text that is not valid Unicode: {error}") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"not valid JSON: {error}") from None
    if not _is_flat(raw) and _deeper_than(document, MAX_DEPTH):
        raise JsonError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(document, JsonObject):
        document.unambiguous = not ambiguous
    return document


def repeated_keys(document: Any, at: str = "") -> Iterator[str]:
    """Paths of all keys that appear twice in their object, in document order."""
    if isinstance(document, JsonObject) and not document.unambiguous:
        yield from (f"{at}.{key}".lstrip(".") for key in document.repeated)
        for key, value in document.items():
            if isinstance(value, dict | list):
                yield from repeated_keys(value, f"{at}.{key}".lstrip("."))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from repeated_keys(value, f"{at}[{index}]")


def _object(ambiguous: list[JsonObject], pairs: list[tuple[str, Any]]) -> JsonObject:
    parsed = JsonObject(pairs)
    if len(parsed) < len(pairs):
        seen: set[str] = set()
        parsed.repeated = tuple(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        ambiguous.append(parsed)
    return parsed


def _is_flat(raw: bytes) -> bool:
    """The brackets alone show that nothing is nested too deeply, which is faster than to walk through the document.

    False does not mean the opposite: brackets in strings count as well.
    """
    brackets = raw.translate(None, delete=_NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _deeper_than(document: Any, limit: int) -> bool:
    level = [document]
    for _ in range(limit):
        level = [value for each in level if isinstance(each, dict | list) for value in _values(each)]
    return any(isinstance(each, dict | list) for each in level)


def _values(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")
