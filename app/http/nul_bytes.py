"""NUL characters in a request: PostgreSQL stores none, SQLite does, and nobody means one. A 400, never a 500."""

from fastapi import FastAPI, Request
from sqlalchemy.exc import DataError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import InvalidRequest
from app.http.errors import render


def refuse_nul(app: FastAPI) -> None:
    app.add_middleware(NoNul)
    app.add_exception_handler(DataError, _in_body)


class NoNul:
    """Refuses NUL in path and query, which would reach the database as an id or a filter."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            await render(_refusal("the URL"), Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def _in_body(request: Request, error: Exception) -> Response:
    """The driver refuses such a text before it asks the database. Any other kind of wrong data is our own fault."""
    if "NUL" not in str(getattr(error, "orig", "")):
        raise error
    return render(_refusal("a text of the request"), request)


def _refusal(place: str) -> InvalidRequest:
    return InvalidRequest(f"{place} holds a NUL character, which cannot be stored", code="invalid_text")
