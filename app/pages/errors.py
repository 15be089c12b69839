"""Renders an error as a page, for people who open an address of this service in a browser."""

import http
from typing import Final

from fastapi import Request, Response

from app.errors import PermafrostError
from app.pages.login import sign_in_page
from app.pages.render import render_page

_TITLES: Final = {
    "unknown_url": "There is no such page",
    "invalid_api_key": "This page needs you to sign in",
    "insufficient_permissions": "This key may not do that",
    "untrusted_origin": "This form was sent from elsewhere",
}


def error_page(request: Request, error: PermafrostError) -> Response:
    """The page of an error, with its status and headers; where a key is missing, the form that takes one."""
    title = _TITLES.get(error.code or "", http.HTTPStatus(error.status).phrase)
    if error.code == "invalid_api_key":
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        back = back if request.method in ("GET", "HEAD") else "/"
        response = sign_in_page(request, error.status, title=title, next=back)
    else:
        shown = {"title": title, "message": error.message, "error_code": error.code}
        response = render_page(request, "error.html", error.status, **shown)
    response.headers.update(error.headers)
    return response
