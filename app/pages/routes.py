"""Pages for people: dashboard, a job, the API's documentation. Every asset comes from this process."""

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

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


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """Swagger UI from our own files."""
    return render_page(request, "docs.html", openapi_url=request.app.openapi_url)
