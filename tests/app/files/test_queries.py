"""The fields of an upload's form, and what a finished upload is stored as."""

from datetime import timedelta

import pytest
from fastapi import FastAPI

from app.db import Database
from app.errors import InvalidRequest, NotFound
from app.files.forms import ReceivedForm
from app.files.queries import check_fields, find_file, store
from app.storage.blobs import Blob

HOUR = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}


@pytest.fixture
def database(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


def upload(content: str = "a" * 64, **fields: str) -> ReceivedForm:
    blob = Blob(key=f"sha256/{content[:2]}/{content}", sha256=content, size=10)
    return ReceivedForm({"purpose": "fine-tune", **fields}, "train.jsonl", blob)


def test_purpose_and_lifetime_are_read() -> None:
    """Both of OpenAI's fields, or none."""
    assert check_fields({"purpose": "fine-tune"}) == ("fine-tune", None)
    assert check_fields({"purpose": "evals"} | HOUR) == ("evals", timedelta(hours=1))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "purpose", "missing_field"),
        ({"purpose": "fun"}, "purpose", "invalid_value"),
        ({"purpose": "evals", "colour": "red"}, "colour", "unknown_field"),
        ({"purpose": "evals", "expires_after[seconds]": "3600"}, "expires_after.anchor", "invalid_value"),
        ({"purpose": "evals"} | HOUR | {"expires_after[seconds]": "1"}, "expires_after.seconds", "invalid_value"),
        ({"purpose": "evals"} | HOUR | {"expires_after[seconds]": "٣٦٠٠"}, "expires_after.seconds", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, str], param: str, code: str) -> None:
    """With its code, before anything is stored."""
    with pytest.raises(InvalidRequest) as raised:
        check_fields(fields)
    assert (raised.value.param, raised.value.code) == (param, code)


def test_a_retry_within_ten_minutes_is_the_same_file(database: Database) -> None:
    """By bytes, name and purpose; without the client's mark, an equal upload is a new file."""
    first = store(database, upload(), project="default", retried=False, limit=100)
    assert store(database, upload(), project="default", retried=True, limit=100).id == first.id
    assert store(database, upload(), project="default", retried=False, limit=100).id != first.id
    assert store(database, upload("b" * 64), project="default", retried=True, limit=100).id != first.id


def test_a_file_of_another_project_is_not_found(database: Database) -> None:
    """As one that does not exist."""
    file = store(database, upload(), project="default", retried=False, limit=100).id
    with database.read() as session:
        assert find_file(session, "default", file).filename == "train.jsonl"
        with pytest.raises(NotFound):
            find_file(session, "other", file)
