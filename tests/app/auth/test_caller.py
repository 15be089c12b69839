"""Who calls: keys at the door of the real application."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from app.auth import api_keys
from app.db import Database
from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from migrations.upgrade import upgrade
from tests.app.auth.test_api_keys import made
from tests.app.conftest import serve
from tests.app.guarded import Guarded


def test_no_key_is_refused_like_any_other(guarded: Guarded, client: TestClient):
    """None, another scheme, nonsense, wrong, expired, revoked: 401 with one and the same answer, so no oracle."""
    _, expired = made(guarded.db, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    row, revoked = made(guarded.db)
    with guarded.db.write() as session:
        api_keys.revoke(session, row.id)
    right = guarded.keys["mine", "admin"]
    headers: list[dict[str, str]] = [{}]
    headers += [{"authorization": value} for value in ("", "Bearer", "Bearer ", right, f"Token {right}", "Basic ???")]
    wrong = [
        right[:-1] + ("0" if right[-1] != "0" else "1"),
        "none",
        "pf_aaaaaaaa_" + "0" * 64,
        expired,
        revoked,
        "ÿ" * 9,
    ]
    headers += [{"authorization": f"Bearer {key}".encode("latin-1")} for key in wrong]  # type: ignore[dict-item]
    answers = [client.get("files", headers=each) for each in headers]
    assert {answer.status_code for answer in answers} == {401}
    bodies = {answer.text for answer in answers}
    assert len(bodies) == 1
    error = answers[0].json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
    assert "Bearer pf_" in error["message"]
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="permafrost"'}
    assert client.get("files", headers=guarded.headers("mine")).status_code == 200


def test_the_sdk_sends_its_key(guarded: Guarded):
    """The official client with a right key works, with a wrong one it raises its own error, and does not retry."""
    with serve(guarded.application) as url:
        with OpenAI(base_url=f"{url}/v1", api_key=guarded.keys["mine", "reader"], max_retries=0) as sdk:
            assert list(sdk.files.list()) == []
            with pytest.raises(openai.PermissionDeniedError, match="the role writer"):
                sdk.files.create(file=b"{}", purpose="fine-tune")
        with OpenAI(base_url=f"{url}/v1", api_key="sk-wrong") as sdk, pytest.raises(openai.AuthenticationError):
            sdk.files.list()


def test_browsers_may_read_with_the_key_as_a_password(guarded: Guarded, client: TestClient):
    """As HTTP Basic has it; what changes something is refused, since browsers send it unasked."""
    key = guarded.keys["mine", "admin"]
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}
    assert client.get("http://testserver/", headers={"accept": "text/html"}).status_code == 401
    page = client.get("http://testserver/", headers={"accept": "text/html"} | basic)
    assert page.status_code == 200 and "/new" not in page.text
    assert client.get("files", headers=basic).status_code == 200
    assert client.delete("files/file-none", headers=basic).status_code == 401
    wrong = {"authorization": "Basic " + base64.b64encode(b"me:pf_wrong").decode()}
    assert client.get("http://testserver/", headers=wrong).status_code == 401


def test_the_openapi_page_tells_of_keys(guarded: Guarded):
    """The scheme is there, and each operation under /v1 asks for it."""
    document = guarded.application.openapi()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert (operation.get("security") == [{"ApiKey": []}]) == path.startswith("/v1/"), path


# ---- starting


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.5", "example.org", "::"])
def test_without_keys_only_loopback(tmp_path: Any, host: str):
    """PERMAFROST_AUTH=off elsewhere ends with a sentence that says why."""
    with pytest.raises(SystemExit, match="PERMAFROST_AUTH=off is for loopback"):
        create_app(Settings(data_dir=tmp_path, auth="off", host=host))


@pytest.mark.parametrize(("auth", "host"), [("required", "127.0.0.1"), ("", "0.0.0.0")])
def test_a_service_that_asks_for_keys_needs_one(database_url: str, tmp_path: Any, auth: Any, host: str):
    """Without any, on an empty database or a migrated one, it ends with the command that makes the first."""
    settings = Settings(data_dir=tmp_path, database_url=database_url, auth=auth, host=host)
    with pytest.raises(SystemExit, match="permafrost keys create"):
        create_app(settings)
    upgrade(database_url)
    with pytest.raises(SystemExit, match="permafrost keys create"):
        create_app(settings)
    db = Database(database_url)
    made(db)
    db.close()
    create_app(settings)


def test_on_loopback_keys_are_not_asked_for(tmp_path: Any):
    """The default: everyone on this machine is the admin of the project `default`."""
    application = create_app(Settings(data_dir=tmp_path))
    tables().create_all(application.state.backends.database.engine)
    with TestClient(application, base_url="http://127.0.0.1/v1/") as client:
        assert client.get("audit_logs").status_code == 200
        assert client.get("audit_logs", headers={"authorization": "Bearer none"}).status_code == 200


@pytest.mark.parametrize(("auth", "host"), [("off", "0.0.0.0"), ("required", "127.0.0.1"), ("", "192.168.0.5")])
def test_the_service_refuses_to_be_open_to_everybody(tmp_path: Any, auth: Any, host: str) -> None:
    """No keys, no service beyond loopback; the message says what would work."""
    with pytest.raises(SystemExit, match="PERMAFROST_AUTH"):
        create_app(Settings(data_dir=tmp_path, auth=auth, host=host))
