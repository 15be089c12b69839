"""Refuses forms that another origin's page sends."""

from typing import Any

from fastapi import Depends, Request

from app.errors import Forbidden
from app.http.dependencies import Config
from app.http.same_origin import from_elsewhere


async def _own_page(request: Request, settings: Config) -> None:
    """With a session's cookie, `app.auth.caller` is stricter: it wants to know. A program with a key says nothing."""
    if from_elsewhere(request, trusted=settings.trusted_hosts):
        message = (
            "this form was sent by another origin's page; open this service's own page, or, behind a proxy with a name "
            "of its own, list that name in PERMAFROST_TRUSTED_HOSTS"
        )
        raise Forbidden(message, code="untrusted_origin")


#: For every route that a form of ours posts to.
FROM_OWN_PAGE: Any = Depends(_own_page)
