"""Renders a template as a page: with the filters of `format`, and headers that let a browser load nothing else."""

from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates

from app.pages.format import FILTERS

FOLDER: Final = Path(__file__).parent
#: Nothing from elsewhere, and no script that is not one of our files. Swagger UI sets styles from script.
POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

templates = Jinja2Templates(directory=FOLDER / "templates")
templates.env.filters.update(FILTERS)


def render_page(request: Request, template: str, code: int = 200, **context: Any) -> Response:
    """The page of a template, which no cache keeps."""
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cache-control": "no-store",
    }
    return templates.TemplateResponse(request, template, context, status_code=code, headers=headers)
