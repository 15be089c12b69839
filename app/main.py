"""create_app(): backends, routers, middleware, pages. `uvicorn --factory app.main:create_app` serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from app import __version__, tracing
from app.audit.record import record_changes
from app.audit.routes import router as audit
from app.auth import sessions
from app.auth.caller import refuse_unsafe_exposure
from app.auth.key_cache import KeyCache
from app.auth.provider import Provider
from app.auth.renewal import Renewal
from app.broker.celery import make_celery
from app.broker.notifier import Notifier
from app.curves.routes import router as curves
from app.db import Database
from app.evidence.log_routes import router as transparency
from app.evidence.routes import router as evidence
from app.exports.routes import router as exports
from app.files.routes import router as files
from app.freeze.routes import router as freeze
from app.guide.routes import mount_guide
from app.guide.routes import router as guide
from app.http import errors
from app.http.access_log import AccessLog
from app.http.dependencies import Backends
from app.http.head_requests import HeadRequests
from app.http.host_guard import HostGuard
from app.http.nul_bytes import NulBytes, refuse_nul_in_bodies
from app.http.request_head import HeadLimit
from app.http.request_id import RequestId
from app.http.size_limit import SizeLimit
from app.http.telemetry import configure_logs
from app.jobs.live.polls import PollCache
from app.jobs.live.watcher import JobWatcher
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.idempotency import KeysInFlight
from app.jobs.routes import router as jobs
from app.logs.routes import router as logs
from app.models.routes import router as models
from app.openapi import document
from app.openapi.prose import DESCRIPTION, TAGS
from app.ops import health
from app.pages.errors import error_page
from app.pages.live import ProjectLooks
from app.pages.report import router as report
from app.pages.routes import mount_static
from app.pages.routes import router as pages
from app.papers.routes import router as papers
from app.secrets.routes import router as secrets
from app.settings import Settings
from app.storage.blobs import Storage
from app.sweeps.routes import router as sweeps
from app.uploads.routes import router as uploads
from app.webhooks.routes import router as webhooks


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with its own database engine and storage. Raises SystemExit if it would be open to strangers."""
    settings = settings or Settings()
    configure_logs()
    tracing.configure("permafrost-api")
    refuse_unsafe_exposure(settings)

    application = FastAPI(
        title="Permafrost",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,  # served with our own copy of its assets
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST may lose its body
        lifespan=_lifespan,
        routes=_routes(),
        contact={"name": "Permafrost maintainers"},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    _add_state(application, settings)
    _add_middleware(application, settings)
    mount_static(application)
    mount_guide(application)
    document.install(application, keys_required=settings.auth_required)
    return application


def _add_state(application: FastAPI, settings: Settings) -> None:
    database = Database(settings.database)
    record_changes(database)
    application.state.backends = Backends(
        settings=settings,
        database=database,
        storage=Storage(settings.storage),
        notifier=Notifier(make_celery(settings)),
    )
    application.state.key_cache = KeyCache(database)
    application.state.session_cache = KeyCache(database, find=partial(sessions.find, settings=settings))
    application.state.provider = provider = Provider.of(settings) if settings.oidc_issuer else None
    application.state.renewal = Renewal(database, settings, provider) if provider else None
    application.state.watcher = JobWatcher(database)
    application.state.project_looks = ProjectLooks()
    application.state.poll_cache = PollCache(database, ProjectShares.of(settings))
    application.state.keys_in_flight = KeysInFlight()
    application.state.error_page = error_page


def _add_middleware(application: FastAPI, settings: Settings) -> None:
    """Adds the layers from the innermost to the outermost."""
    if not settings.auth_required:
        application.add_middleware(HostGuard, trusted=settings.trusted_hosts)
    application.add_middleware(NulBytes)
    application.add_middleware(SizeLimit)
    application.add_middleware(HeadLimit)
    application.add_middleware(errors.UnhandledErrors)
    application.add_middleware(AccessLog)
    application.add_middleware(RequestId)
    application.add_middleware(HeadRequests)

    errors.install(application)
    refuse_nul_in_bodies(application)


@cache
def _routes() -> list[BaseRoute]:
    """The routes of all applications of this process: FastAPI analyses each one for every router that includes it."""
    everything = APIRouter()
    nouns = (
        jobs,
        sweeps,
        curves,
        logs,
        evidence,
        transparency,
        papers,
        exports,
        report,
        freeze,
        files,
        uploads,
        models,
        webhooks,
        secrets,
        audit,
    )
    for router in nouns:
        everything.include_router(router, prefix="/v1")
    for router in (health.router, pages, guide):
        everything.include_router(router)
    return everything.routes


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[dict[str, Any]]:
    backends: Backends = application.state.backends
    try:
        yield {}
    finally:
        await application.state.watcher.close()
        application.state.key_cache.close()
        backends.notifier.close()
        backends.database.close()
        tracing.close()
