"""A service without keys trusts this machine, but not the web pages that its browsers show.

A page can point its own name at 127.0.0.1 (DNS rebinding), or post a form there. Both give themselves away: the browser
sends the page's name as Host or as Origin.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden
from app.http.errors import render

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class OwnHosts:
    """Refuses requests to, and changes asked for by pages of, hosts that are neither this machine nor `trusted`."""

    def __init__(self, app: ASGIApp, *, trusted: str) -> None:
        self.app = app
        self.trusted = {host for each in trusted.split(",") if (host := each.strip().lower())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (name := self._stranger(Request(scope))) is not None:
            message = (
                f"without API keys this service answers to this machine alone, and not as or for {name!r}; "
                "PERMAFROST_TRUSTED_HOSTS can name more hosts, PERMAFROST_AUTH=required asks for keys"
            )
            await render(Forbidden(message, code="untrusted_host"), Request(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _stranger(self, request: Request) -> str | None:
        names = [_host(f"//{request.headers.get('host', '')}")]
        if request.method not in _READS and "origin" in request.headers:
            names.append(_host(request.headers["origin"]))
        return next((name for name in names if not self._own(name)), None)

    def _own(self, name: str) -> bool:
        if name in self.trusted or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            # A name without a dot is in nobody's public DNS, so no page can have it.
            return name != "null" and "." not in name and ":" not in name


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or ("null" if url == "null" else "")).rstrip(".")
    except ValueError:
        return url
