"""Pages for people: dashboard, a job, the API's documentation. Every asset comes from this process."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError

from app.auth.caller import bearer, caller
from app.errors import PermafrostError
from app.pages import actions, dashboard, job, live, login, models, new_job, overlay, single_sign_on, sweeps
from app.pages.render import FOLDER, render_page

router = APIRouter(include_in_schema=False)
for _part in (login, single_sign_on, dashboard, new_job, job, actions, live, sweeps, models, overlay):
    router.include_router(_part.router)


def mount_static(application: FastAPI) -> None:
    application.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")


@router.get("/jobs")
def jobs_page() -> Response:
    """Where people land who shorten a job's address."""
    return RedirectResponse("/")


async def known_caller(
    request: Request, presented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Finds out who looks at a page that is for everybody, so that its menu is that of the other pages."""
    with suppress(PermafrostError, SQLAlchemyError):
        await caller(request, presented)


@router.get("/docs", dependencies=[Depends(known_caller)])
async def documentation(request: Request) -> Response:
    """Swagger UI from our own files."""
    return render_page(request, "docs.html", openapi_url=request.app.openapi_url)
