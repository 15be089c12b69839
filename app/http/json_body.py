"""Reads JSON bodies strictly: a key that an object has twice is refused, with its path."""

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.errors import HttpError, InvalidRequest, PermafrostError


class JsonRoute(APIRoute):
    """A route whose JSON body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, with a request that reads JSON our way."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body; or a string, which fits no schema, if it cannot be read.

        An error that is raised here would be reported before the caller's key and role are checked.
        """
        encoding = self.headers.get("content-encoding", "identity")
        try:
            if encoding != "identity":
                message = f"the body must be sent without Content-Encoding, not as {encoding}"
                raise HttpError(415, message, code="unsupported_media_type")
            return parse(await self.body())
        except PermafrostError as error:
            self.state.body_error = error
            return "unreadable"


def body_error(request: Request) -> PermafrostError | None:
    """Why the request's JSON body could not be read."""
    error: PermafrostError | None = getattr(request.state, "body_error", None)
    return error


def parse(body: bytes) -> Any:
    """The JSON document. Raises InvalidRequest if it is not JSON, is nested too deeply, or has a key twice."""
    repeated: list[tuple[dict[str, Any], str]] = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append((members, next(name for at, name in enumerate(names) if name in names[:at])))
        return members

    try:
        document = json.loads(body, object_pairs_hook=to_dict)
    except json.JSONDecodeError as error:
        message = f"the body is not valid JSON: {error.msg} (character {error.pos})"
        raise InvalidRequest(message, code="invalid_json") from None
    except (UnicodeDecodeError, RecursionError):
        message = "the body could not be read: it is not UTF-8 JSON, or is nested too deeply"
        raise InvalidRequest(message, code="invalid_body") from None

    if repeated:
        _refuse(document, repeated)
    return document


def _refuse(document: Any, repeated: list[tuple[dict[str, Any], str]]) -> None:
    """Raises for the first object with a repeated key. Objects that were themselves replaced have no path."""
    names = {id(members): name for members, name in repeated}
    path, name = next((path, names[id(value)]) for path, value in _walk(document) if id(value) in names)
    param = f"{path}.{name}" if path else name
    message = f"{param}: the key {name!r} is given twice; give it once"
    raise InvalidRequest(message, param=param, code="repeated_key")


def _walk(document: Any) -> Iterator[tuple[str, Any]]:
    """Every value of the document with its path, such as `rules[0].select`."""
    waiting = [("", document)]
    while waiting:
        path, value = waiting.pop(0)
        yield path, value
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}" if path else name, inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{at}]", inner) for at, inner in enumerate(value)]
