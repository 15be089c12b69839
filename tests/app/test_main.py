"""The applications of a process: routes in common, everything else their own."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import rows, upload_to


@pytest.fixture
def another(tmp_path: Path) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path / "another"))


def test_applications_share_no_data(client: TestClient, another: FastAPI, sqlite_tables: Path, tmp_path: Path) -> None:
    """A file of one is not in the other's list, whichever answered first."""
    (tmp_path / "another").mkdir(exist_ok=True)
    (tmp_path / "another" / "permafrost.db").write_bytes(sqlite_tables.read_bytes())
    file = upload_to(client)(rows())
    with TestClient(another, base_url="http://testserver/v1/") as second:
        assert second.get("files").json()["data"] == []
        assert second.get(f"files/{file}").status_code == 404
    assert [listed["id"] for listed in client.get("files").json()["data"]] == [file]


def test_a_route_of_one_application_is_not_another_ones(embedded: FastAPI, another: FastAPI) -> None:
    """What is added to an application stays there; their documents are the same."""
    embedded.add_api_route("/of-mine", lambda: {"ok": True}, include_in_schema=False)
    assert TestClient(embedded).get("/of-mine").status_code == 200
    assert TestClient(another).get("/of-mine").status_code == 404
    assert embedded.openapi() == another.openapi()
