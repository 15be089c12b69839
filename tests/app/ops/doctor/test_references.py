"""Which blobs rows refer to: whole values and quoted strings in JSON, of every table."""

import pytest
from fastapi import FastAPI

from app.db import now
from app.models.tables import Model
from app.ops.doctor.references import find_references, keys_in

KEY = f"sha256/aa/{'a' * 64}"
OTHER = f"sha256/bb/{'b' * 64}"


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (KEY, [KEY]),
        (f'[{{"blob": "{KEY}"}}, {{"blob": "{OTHER}"}}]', [KEY, OTHER]),
        (f"blob {KEY} is missing", []),
        (f'"{KEY}0"', []),
        (KEY.upper(), []),
        ("", []),
    ],
)
def test_keys_are_whole_strings(value: str, keys: list[str]) -> None:
    """A key inside a sentence, such as an error message, is not a reference."""
    assert list(keys_in(value)) == keys


def test_rows_are_named_by_table_and_id(application: FastAPI) -> None:
    """On each database, from JSON columns as from text."""
    db = application.state.backends.database
    with db.write() as session:
        row = Model(id="m", owned_by="x", kind="base", status="ready", spec={}, created_at=now(session))
        row.tensors = [{"name": "weight", "blob": KEY}]
        session.add(row)
    with db.snapshot() as session:
        assert find_references(session) == {KEY: {"models m"}}
    db.close()
