"""A service on each database, and the doctor on it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from app.http.dependencies import Backends
from app.ops.doctor.command import examine
from app.ops.doctor.finding import Finding
from tests.app.cli.conftest import environment, permafrost  # noqa: F401


@pytest.fixture
def backends(application: FastAPI) -> Iterator[Backends]:
    """On SQLite, then on PostgreSQL."""
    made: Backends = application.state.backends
    yield made
    made.database.close()


@pytest.fixture
def look(backends: Backends) -> Callable[..., list[Finding]]:
    def examine_it(**options: Any) -> list[Finding]:
        return examine(backends.settings, **options)

    return examine_it
