"""Refuses unknown and repeated query parameters: a filter with a typo would otherwise list everything."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes

from app.errors import InvalidRequest

Kind = Literal["one", "list", "object"]

_NESTED = re.compile(r"(\w+)\[.*", re.DOTALL)


def refuse_unknown(request: Request) -> None:
    """Raises for the first parameter that the operation does not document, or that is given twice and is no list.

    Pages, which have no document, take any.
    """
    route: Any = request.scope.get("route")
    if not getattr(route, "include_in_schema", False):
        return

    kinds = dict(_documented(route))
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if name not in kinds and not _part_of(name, kinds):
            raise InvalidRequest(_unknown(name, kinds), param=name, code="unknown_parameter")
        if count > 1 and kinds.get(name.removesuffix("[]")) != "list":
            message = f"query parameter {name!r} is given {count} times; give it once"
            raise InvalidRequest(message, param=name, code="repeated_parameter")


def bracketed(request: Request, name: str, values: Any) -> list[str]:
    """The values of the query parameter `name[]`, as the SDK writes a list. Raises for one that this Literal lacks."""
    given = request.query_params.getlist(f"{name}[]")
    for value in given:
        if value not in get_args(values):
            message = f"{value!r} is not a {name}; there are {', '.join(get_args(values))}"
            raise InvalidRequest(message, param=name, code="invalid_value")
    return given


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.partition("[")[0], known, n=1)
    names = f"known here: {', '.join(sorted(known))}" if known else "this operation has no parameters"
    return f"unknown query parameter {name!r}; " + (f"did you mean {near[0]!r}?" if near else names)


def _documented(route: Any) -> Iterator[tuple[str, Kind]]:
    for field in get_flat_params(route.dependant):
        if getattr(field.field_info, "in_", None) == ParamTypes.query:
            annotation = field.field_info.annotation
            yield field.alias, "list" if _is_list(annotation) else "one"
    for parameter in (route.openapi_extra or {}).get("parameters", []):
        if parameter["in"] == "query":
            yield parameter["name"], "object"


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(branch) is list for branch in get_args(annotation))


def _part_of(name: str, kinds: dict[str, Kind]) -> bool:
    """`status[]` of a list, as the SDK writes it, and `metadata[key]` of an object."""
    match = _NESTED.fullmatch(name)
    kind = kinds.get(match[1]) if match else None
    return kind == "object" or (kind == "list" and name.endswith("[]"))
