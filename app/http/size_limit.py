"""A limit on the size of request bodies, and on how long a client may send nothing of one."""

import asyncio
import re
from typing import Final

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a request body. A route for uploads raises the limit for its request with `allow_body`.
MAX_JSON_BYTES: Final = 1 << 20
#: A client that sends nothing of its body for this long has gone, or means to hold the connection.
SILENCE_SECONDS = 60.0
_LIMIT_KEY: Final = "permafrost.body_limit"


class SizeLimit:
    """Answers 413 to a body beyond the limit: before its first byte if Content-Length says so, else at the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[_LIMIT_KEY] = MAX_JSON_BYTES
        await self.app(scope, _limited(scope, receive), send)


def allow_body(request: Request, limit: int) -> None:
    """Sets this request's size limit in bytes. Call it before the body is read."""
    request.scope[_LIMIT_KEY] = limit


def content_length(scope: Scope) -> int:
    """The size in bytes that the request announces, or 0."""
    value = Headers(scope=scope).get("content-length", "")
    return int(value) if re.fullmatch(r"[0-9]{1,19}", value) else 0


def _limited(scope: Scope, receive: Receive) -> Receive:
    read, more = 0, True

    async def limited() -> Message:
        nonlocal read, more
        limit = scope[_LIMIT_KEY]
        if read == 0 and content_length(scope) > limit:
            raise _too_large(limit)

        try:
            # Once the body is complete, streams wait here until the client hangs up, for any length of time.
            message = await asyncio.wait_for(receive(), SILENCE_SECONDS if more else None)
        except TimeoutError:
            raise HTTPException(408, f"nothing of the body came for {SILENCE_SECONDS:g} seconds") from None

        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            more = bool(message.get("more_body", False))
            if read > limit:
                raise _too_large(limit)
        return message

    return limited


def _too_large(limit: int) -> HTTPException:
    """An HTTPException, because FastAPI turns any other error raised while it reads a body into a plain 400."""
    return HTTPException(413, f"the body is larger than the {limit:,} bytes that this endpoint takes")
