"""create_app(): backends, routers, pages, error rendering. `uvicorn --factory app.main:create_app` serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI

from app import __version__
from app.audit.record import attend
from app.audit.routes import router as audit
from app.auth.cache import KeyRing
from app.auth.caller import Doorkeeper, refuse_open_doors
from app.auth.rate_headers import RateHeaders
from app.auth.rates import Rates
from app.broker.celery import make_celery
from app.broker.notifier import Doorbell
from app.curves.routes import router as curves
from app.db import Database
from app.evidence.routes import router as evidence
from app.files.routes import router as files
from app.freeze.routes import router as freeze
from app.http import errors
from app.http.dependencies import Backends
from app.http.host_guard import OwnHosts
from app.http.nul_bytes import refuse_nul
from app.http.telemetry import configure_logs
from app.jobs.live.polls import PollCache
from app.jobs.live.watcher import JobWatcher
from app.jobs.queue.idempotency import KeysInFlight
from app.jobs.routes import router as jobs
from app.logs.routes import router as logs
from app.models.routes import router as models
from app.openapi import document
from app.openapi.prose import DESCRIPTION, TAGS
from app.ops import health
from app.pages.routes import mount_static
from app.pages.routes import router as pages
from app.settings import Settings
from app.storage.blobs import Storage
from app.webhooks.routes import router as webhooks


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application over its own database engine and storage; where keys are asked for, there must be one."""
    settings = settings or Settings()
    configure_logs()
    refuse_open_doors(settings)
    application = FastAPI(
        title="Permafrost",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,  # served from our own copy of its assets
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST may lose its body
        lifespan=_lifespan,
        contact={"name": "Permafrost maintainers"},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    database = Database(settings.database)
    application.state.backends = Backends(
        settings=settings,
        database=database,
        storage=Storage(settings.storage),
        doorbell=Doorbell(make_celery(settings)),
    )
    application.state.watcher = JobWatcher(database)
    application.state.poll_cache = PollCache(database)
    application.state.keys_in_flight = KeysInFlight()
    rates = Rates(settings.rate_limit)
    application.state.doorkeeper = Doorkeeper(KeyRing(database), rates)
    attend(database)
    application.add_middleware(RateHeaders, rates=rates)
    if not settings.auth_required:
        application.add_middleware(OwnHosts, trusted=settings.trusted_hosts)
    refuse_nul(application)
    errors.install(application)
    v1 = APIRouter(prefix="/v1")
    for router in (jobs, curves, logs, evidence, freeze, files, models, webhooks, audit):
        v1.include_router(router)
    for router in (v1, health.router, pages):
        application.include_router(router)
    mount_static(application)
    document.install(application, keys_required=settings.auth_required)
    return application


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[dict[str, Any]]:
    backends: Backends = application.state.backends
    try:
        yield {}
    finally:
        await application.state.watcher.close()
        application.state.doorkeeper.ring.close()
        backends.doorbell.close()
        backends.database.close()
