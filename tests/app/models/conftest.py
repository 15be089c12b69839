"""The service that tests of models use."""

import pytest
from fastapi import FastAPI

from app.http.dependencies import Backends


@pytest.fixture
def backends(embedded: FastAPI) -> Backends:
    made: Backends = embedded.state.backends
    return made
