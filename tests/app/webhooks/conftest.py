"""A service that may send webhooks to this machine, and the official SDK on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from openai import OpenAI
from starlette.testclient import TestClient

from app.db import Database
from app.main import create_app
from app.settings import Settings
from app.webhooks.courier import Courier
from migrations.tables import tables
from tests.app.conftest import CLIENTS, client_of, serve


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", webhook_allow="127.0.0.0/8", webhook_seconds=0.05)


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    made = create_app(settings)
    tables().create_all(made.state.backends.database.engine)
    return made


@pytest.fixture
def database(application: FastAPI) -> Database:
    found: Database = application.state.backends.database
    return found


@pytest.fixture
def courier(database: Database, settings: Settings) -> Courier:
    """As every worker has one; here its rounds are made by hand."""
    return Courier(database, settings)


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://testserver/v1/") as made:
        yield made


@pytest.fixture
def url(application: FastAPI) -> Iterator[str]:
    with serve(application) as made:
        yield f"{made}/v1"


@pytest.fixture
def sdk(url: str) -> Iterator[OpenAI]:
    """The official SDK, which holds every answer against its own types."""
    with OpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as made:
        yield made


@pytest.fixture(params=CLIENTS)
def every_sdk(request: pytest.FixtureRequest, url: str) -> Iterator[OpenAI]:
    """The official SDK, each of its clients."""
    with client_of(request.param, url) as made:
        yield made
