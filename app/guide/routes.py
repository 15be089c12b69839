"""Serves the guide at /guide, from the files that `make guide` wrote. It shows no project's data and needs no key."""

import json
import re
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from app.pages.render import render_page

router = APIRouter(include_in_schema=False)

BUILT: Final = Path(__file__).parent / "built"
OVERVIEW: Final = Path(__file__).parent / "llms.txt"
DOCS: Final = Path(__file__).parents[2] / "docs"
#: The generator puts a digest of the content into the name of each script and style.
_NAMED_BY_CONTENT: Final = re.compile(r"\.[0-9a-f]{8}\.")


def mount_guide(application: FastAPI, built: Path = BUILT) -> None:
    """Serves the site in `built` below /guide; where nothing is built, a page that says how to."""
    application.mount("/guide", Guide(built), name="guide")


@router.get("/guide")
def guide() -> Response:
    """The pages' links are relative to /guide/."""
    return RedirectResponse("guide/", 308)


@router.get("/llms.txt")
def overview() -> Response:
    """What the service is and where to read on, for programs that read text; https://llmstxt.org has the form."""
    return FileResponse(OVERVIEW, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-cache"})


class Guide(StaticFiles):
    """Static files with the headers that fit them: a policy that lets a page run its own scripts alone."""

    def __init__(self, built: Path) -> None:
        super().__init__(directory=built / "site", html=True, check_dir=False)
        self._built = (built / "scripts.json").exists()
        self._policy = content_policy(json.loads((built / "scripts.json").read_text("utf-8"))) if self._built else ""

    async def check_config(self) -> None:
        if self._built:
            await super().check_config()

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not self._built:
            names = sorted(str(page.relative_to(DOCS.parent)) for page in DOCS.glob("*.md"))
            return render_page(Request(scope), "no_guide.html", 404, names=names)

        response = await super().get_response(path, scope)
        named_by_content = _NAMED_BY_CONTENT.search(path) is not None
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if named_by_content else "no-cache"
        response.headers["content-security-policy"] = self._policy
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "same-origin"
        return response


def content_policy(scripts: list[str]) -> str:
    """Nothing from elsewhere, and of the scripts inside pages only those with these digests."""
    allowed = " ".join(f"'{digest}'" for digest in scripts)
    return (
        f"default-src 'self'; script-src 'self' {allowed}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
