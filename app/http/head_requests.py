"""HEAD, which whatever answers GET answers, too: the same status and headers, and nothing behind them."""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Where a request that was turned into a GET keeps its own method.
ASKED = "permafrost.method"


class Heads:
    """Asks the application as by GET, and stops it where the body would begin: a stream would not end by itself."""

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

        # A copy: the server looks at the method of its own when it writes the answer.
        asked = self.app({**scope, "method": "GET", ASKED: "HEAD"}, receive, send_head)
        application, head = asyncio.ensure_future(asked), asyncio.ensure_future(answered.wait())
        try:
            await asyncio.wait((application, head), return_when=asyncio.FIRST_COMPLETED)
        finally:
            head.cancel()
            if answered.is_set():
                application.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await application
