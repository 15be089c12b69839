"""Folders that become base models."""

from typing import Any

import pytest
from fastapi import FastAPI

from app.errors import Conflict, ModelError
from app.models.registration import register


def test_a_folder_is_registered_once(embedded: FastAPI) -> None:
    """Under its name or another, with the task of its class; a name that something else has is refused."""
    backends = embedded.state.backends
    for name in ("one", "two"):
        folder = backends.settings.models / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"architectures": ["BertForTokenClassification"]}')

    def registered(folder: str, model_id: str | None = None) -> Any:
        services = (backends.database, backends.settings, backends.notifier)
        return register(*services, folder=folder, model_id=model_id, task=None)

    row = registered("one")
    assert (row.id, row.status, row.model_spec.task) == ("one", "pending", "token-classification")
    assert registered("one").created_at == row.created_at
    assert registered("one", "other").id == "other"
    with pytest.raises(Conflict, match="exists already"):
        registered("two", "one")
    with pytest.raises(ModelError, match="no model folder"):
        registered("three")
