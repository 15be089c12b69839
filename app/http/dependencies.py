"""What an endpoint can ask for by type: settings, database, storage, doorbell, which `create_app` makes; a job's id."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from app.broker.notifier import Doorbell
from app.db import Database
from app.settings import Settings
from app.storage.blobs import Storage


@dataclass(frozen=True, slots=True)
class Backends:
    """Made once, shared by every request."""

    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell


def backends(request: Request) -> Backends:
    made: Backends = request.app.state.backends
    return made


# These read an attribute each: as coroutines they run on the loop instead of taking a worker thread.
async def _settings(request: Request) -> Settings:
    return backends(request).settings


async def _database(request: Request) -> Database:
    return backends(request).database


async def _storage(request: Request) -> Storage:
    return backends(request).storage


async def _doorbell(request: Request) -> Doorbell:
    return backends(request).doorbell


Config = Annotated[Settings, Depends(_settings)]
Db = Annotated[Database, Depends(_database)]
Blobs = Annotated[Storage, Depends(_storage)]
Bell = Annotated[Doorbell, Depends(_doorbell)]

JobId = Annotated[str, Path(description="`ftjob-…`", examples=["ftjob-5f0c1d2e3a4b5c6d7e8f9a0b"])]
