"""HEAD for every URL that answers GET: the same status and headers, without the body."""

import asyncio
import contextlib
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Key of the scope under which a HEAD request that runs as a GET keeps its own method.
_METHOD_KEY: Final = "permafrost.method"


class HeadRequests:
    """Runs the application as for GET, and stops it where the body would begin: a stream would not end by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        answered = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                answered.set()

        # A copy, since the server looks at the method of its own scope when it writes the response.
        as_get = self.app({**scope, "method": "GET", _METHOD_KEY: "HEAD"}, receive, send_head)
        application, head = asyncio.ensure_future(as_get), asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((application, head), return_when=asyncio.FIRST_COMPLETED)
        finally:
            head.cancel()
            if answered.is_set():
                application.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await application


def original_method(scope: Scope) -> str:
    """The method that the client sent: HEAD runs through the application as GET."""
    return str(scope.get(_METHOD_KEY, scope["method"]))
