"""Refuses NUL characters in a request with a 400: SQLite stores them, PostgreSQL cannot."""

from fastapi import FastAPI, Request
from sqlalchemy.exc import DataError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import InvalidRequest
from app.http.errors import render


def refuse_nul_in_bodies(app: FastAPI) -> None:
    """Renders the database driver's error about a NUL character as a 400."""
    app.add_exception_handler(DataError, _data_error)


class NulBytes:
    """Refuses NUL characters in path and query, which would reach the database as an id or a filter."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            await render(_refusal("the URL"), Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def _data_error(request: Request, error: Exception) -> Response:
    """The driver refuses such a text before it queries the database. Any other DataError is a bug."""
    if "NUL" not in str(getattr(error, "orig", "")):
        raise error
    return render(_refusal("a text of the request"), request)


def _refusal(where: str) -> InvalidRequest:
    return InvalidRequest(f"{where} holds a NUL character, which cannot be stored", code="invalid_text")
