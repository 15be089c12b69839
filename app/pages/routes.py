"""Pages for people: dashboard, a job, the API's documentation. Every asset comes from this process."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parent / "static"


def mount_static(application: FastAPI) -> None:
    application.mount("/static", StaticFiles(directory=STATIC), name="static")
