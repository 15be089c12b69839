"""Which requests come from a page of another origin."""

import pytest
from fastapi import Request

from app.http.same_origin import from_elsewhere


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, None),
        ({"origin": "http://here:8000"}, False),
        ({"origin": "http://HERE:8000"}, False),
        ({"origin": "http://here:9000"}, True),
        ({"origin": "http://here"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://here:x"}, True),
        ({"origin": ""}, True),
        ({"origin": "https://proxied.example"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-origin"}, True),
    ],
)
def test_the_origin_is_compared_with_the_host(headers: dict[str, str], elsewhere: bool | None) -> None:
    """By host and port; a proxy's name counts where the operator has listed it."""
    raw = [(name.encode(), value.encode()) for name, value in ({"host": "here:8000"} | headers).items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw})
    assert from_elsewhere(request, trusted="other, Proxied.example") is elsewhere


def test_the_port_of_a_scheme_need_not_be_named() -> None:
    """Behind a proxy that brings TLS, Host is as the browser sent it."""
    raw = [(b"host", b"here.example"), (b"origin", b"https://here.example:443")]
    assert from_elsewhere(Request({"type": "http", "headers": raw}), trusted="") is False
