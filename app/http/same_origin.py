"""Tells whether a request comes from a page of this service or of another origin."""

from urllib.parse import urlsplit

from fastapi import Request

_PORTS = {"http": 80, "https": 443}


def from_elsewhere(request: Request, *, trusted: str) -> bool | None:
    """Whether another origin's page sent the request; None where the client does not say, as programs do not.

    Browsers send `Origin` with every POST. The scheme is not compared: a proxy that brings TLS hides it. `trusted` is
    a list of hosts, separated by commas, by which a proxy may be reached that replaces the `Host` header.
    """
    origin = request.headers.get("origin")
    if origin is None:
        site = request.headers.get("sec-fetch-site")
        return None if site is None else site not in ("same-origin", "none")
    sent, own = _place(origin), _place(f"{urlsplit(origin).scheme}://{request.headers.get('host', '')}")
    if sent is not None and sent == own:
        return False
    names = {name.strip().lower() for name in trusted.split(",") if name.strip()}
    return sent is None or sent[0] not in names


def _place(url: str) -> tuple[str, int] | None:
    """Host and port of a URL; None for one that has none, such as the origin `null` of a sandboxed page."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None
