"""FastAPI dependencies of the endpoints: settings, database, storage and notifier, as `create_app` made them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from app.broker.notifier import Notifier
from app.db import Database
from app.settings import Settings
from app.storage.blobs import Storage


@dataclass(frozen=True, slots=True)
class Backends:
    """The connections of the application, shared by all requests."""

    settings: Settings
    database: Database
    storage: Storage
    notifier: Notifier


def backends(request: Request) -> Backends:
    made: Backends = request.app.state.backends
    return made


# These only read an attribute: as coroutines they run on the event loop and take no worker thread.
async def _settings(request: Request) -> Settings:
    return backends(request).settings


async def _database(request: Request) -> Database:
    return backends(request).database


async def _storage(request: Request) -> Storage:
    return backends(request).storage


async def _notifier(request: Request) -> Notifier:
    return backends(request).notifier


Config = Annotated[Settings, Depends(_settings)]
Db = Annotated[Database, Depends(_database)]
Blobs = Annotated[Storage, Depends(_storage)]
NotifierDep = Annotated[Notifier, Depends(_notifier)]

JobId = Annotated[str, Path(description="`ftjob-…`", examples=["ftjob-5f0c1d2e3a4b5c6d7e8f9a0b"])]
