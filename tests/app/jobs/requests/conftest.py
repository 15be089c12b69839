"""A database and a model for requests that no worker ever sees."""

import json
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.db import Database
from app.settings import Settings
from tests.app.jobs.requests.dry_runs import HIDDEN


@pytest.fixture
def folder(embedded: FastAPI) -> Path:
    """A model in the layout of transformers, which no worker has looked at yet."""
    settings: Settings = embedded.state.backends.settings
    place = settings.models / "small"
    place.mkdir(parents=True)
    config = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    (place / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **config}))
    return place


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made
