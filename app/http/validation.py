"""Explains a request that does not fit its schema: 400 with the dotted path of each field, a reason and near names."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from app.errors import HttpError, InvalidRequest, PermafrostError
from app.http.json_body import body_error

_CODES: Final = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
#: Longer values are not repeated in a message.
_SHOWN_CHARACTERS: Final = 80


def explain(error: RequestValidationError, request: Request) -> PermafrostError:
    """The framework's error as ours: `param` is the first field at fault, and `errors` lists all of them."""
    return body_error(request) or _not_json(error, request) or explain_fields(error)


def explain_fields(error: RequestValidationError, *, locate: Callable[[str], str] = str) -> InvalidRequest:
    """The fields at fault. `locate` gives the path in the request of a field of a part that was checked alone."""
    problems = [{**problem, "field": locate(problem["field"] or "") or None} for problem in _problems(error)]
    first, more = problems[0], len(problems) - 1
    message = (f"{first['field']}: " if first["field"] else "") + first["message"]
    if more:
        message += f" (and {more} more, see errors)"
    return InvalidRequest(message, param=first["field"], code=first["code"], errors=problems)


def _not_json(error: RequestValidationError, request: Request) -> PermafrostError | None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if isinstance(error.body, bytes) and not (media_type == "application/json" or media_type.endswith("+json")):
        sent = f"not {media_type!r}" if media_type else "and the request names no type"
        message = f"the body must be sent with Content-Type: application/json, {sent}"
        return HttpError(415, message, code="unsupported_media_type")
    return None


def _problems(error: RequestValidationError) -> Iterator[dict[str, Any]]:
    """One entry for each field and kind of problem: every branch of a union has its own complaint about a value."""
    reasons: dict[tuple[str, str], list[str]] = {}
    values: dict[tuple[str, str], str] = {}
    for problem in error.errors():
        source, *path = problem["loc"]
        field = _dotted(path, error.body, kind=problem["type"]) if source == "body" else str(path[0])
        key = field, _CODES.get(problem["type"], "invalid_value")
        reason = _reason(problem, field=field)
        if reason not in reasons.setdefault(key, []):
            reasons[key].append(reason)
        values.setdefault(key, _given(problem))

    for (field, code), (first, *others) in reasons.items():
        message = (
            " or ".join([first, *(text.removeprefix("input should be ") for text in others)]) + values[field, code]
        )
        yield {"line": None, "field": field or None, "code": code, "message": message}


def _reason(problem: Mapping[str, Any], *, field: str) -> str:
    kind = problem["type"]
    if kind == "missing":
        return "this field is required" if field else "the request needs a JSON body"
    if not field and kind.startswith(("model_", "dict_")):
        return "the body must be a JSON object"
    text = str(problem["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    return text[:1].lower() + text[1:]


def _given(problem: Mapping[str, Any]) -> str:
    """The value that was sent, if it is short and says something."""
    value = problem.get("input")
    if problem["type"] in _CODES or not (isinstance(value, str | int | float | bool) or value is None):
        return ""
    shown = json.dumps(value, ensure_ascii=False)
    return f", not {shown}" if len(shown) <= _SHOWN_CHARACTERS else ""


def _dotted(path: list[Any], body: Any, *, kind: str) -> str:
    """`("model", "torch", "kwargs", "x")` as `model.kwargs.x`.

    pydantic also puts the tag of a union's branch into a location. Tags are left out: they are not keys of the body,
    and unlike the name of a missing field they are not the last part of a `missing` problem.
    """
    parts: list[str] = []
    value = body
    for position, part in enumerate(path):
        missing = kind == "missing" and position == len(path) - 1
        if isinstance(value, dict) and isinstance(part, str) and (part in value or missing):
            parts.append(part if not parts else f".{part}")
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            parts.append(f"[{part}]")
            value = value[part]
    return "".join(parts)
