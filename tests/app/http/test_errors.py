"""Every way to be wrong has an answer: status, code and param in OpenAI's envelope, and nothing reaches training."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from migrations.tables import tables
from tests.app.guarded import routes
from tests.app.test_tenancy import BODIES, operation
from tests.servers import free_port, fresh_database


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "nothing/here", 404, "unknown_url"),
        ("GET", "fine_tuning/jobs/", 404, "unknown_url"),
        ("PUT", "fine_tuning/jobs", 405, "method_not_allowed"),
        ("DELETE", "models/org/name/tensors", 405, "method_not_allowed"),
        ("DELETE", "models/name/files/model.safetensors", 405, "method_not_allowed"),
        ("DELETE", "models/tensors", 404, "model_not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/events", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/events?stream=true", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/checkpoints", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/metrics", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/parameters", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/evidence", 404, "not_found"),
        ("GET", "fine_tuning/jobs/ftjob-none/attestation", 404, "not_found"),
        ("POST", "fine_tuning/jobs/ftjob-none/cancel", 404, "not_found"),
        ("GET", "files/file-none", 404, "not_found"),
        ("GET", "files/file-none/content", 404, "not_found"),
        ("DELETE", "files/file-none", 404, "not_found"),
        ("GET", "models/none", 404, "model_not_found"),
        ("GET", "models/none/tensors", 404, "model_not_found"),
        ("GET", "models/none/files/model.safetensors", 404, "model_not_found"),
        ("DELETE", "models/none", 404, "model_not_found"),
        ("GET", "fine_tuning/jobs?limit=0", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?limit=x", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?order=up", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?status=done", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?status[]=done", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?metadata=x", 400, "invalid_value"),
        ("GET", "fine_tuning/jobs?after=ftjob-none", 400, "invalid_cursor"),
    ],
)
def test_every_miss_has_the_envelope(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    """Unknown URLs, methods, objects and parameters alike; each answer has a request id."""
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("chat/completions", "does not run them: /guide/openai#serving-a-result"),
        ("responses/resp_1", "does not run them"),
        ("evals", "validation_file"),
        ("fine_tuning/alpha/graders/run", "supervised or dpo"),
        ("fine_tuning/checkpoints/ft:x/permissions", "reads them as models"),
        ("chats", "the endpoints are listed at /docs"),
    ],
)
def test_what_openai_offers_and_we_do_not_has_a_reason(client: TestClient, path: str, says: str) -> None:
    """A program that moved in and goes on to ask its model reads where models are run."""
    answer = client.post(path, json={})
    assert answer.status_code == 404
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("files", "GET, HEAD, POST"),
        ("files/file-1", "DELETE, GET, HEAD"),
        ("fine_tuning/jobs/ftjob-1/cancel", "POST"),
        ("models/org/name", "DELETE, GET, HEAD"),
        ("models/org/name/tensors", "GET, HEAD"),
    ],
)
def test_the_methods_that_would_work_are_named(client: TestClient, path: str, methods: str) -> None:
    """RFC 9110 wants all of them in Allow on a 405."""
    assert client.put(path).headers["allow"] == methods


def test_problem_json_for_those_who_ask(client: TestClient) -> None:
    """RFC 9457 members beside the envelope; plain JSON for everybody else."""
    answer = client.get("files/file-none", headers={"accept": "application/problem+json"})
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["title"], body["type"]) == (404, "Not Found", "/guide/errors/not_found")
    assert body["detail"] == body["error"]["message"]
    assert body["instance"] == "/v1/files/file-none"
    assert client.get("files/file-none").headers["content-type"] == "application/json"


def test_a_bug_of_ours_is_a_500_that_tells_nothing(embedded: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    """The caller gets the request id, the log gets the traceback."""

    @embedded.get("/v1/broken")
    def broken() -> None:
        raise RuntimeError("a secret of the database")

    with TestClient(embedded) as client:
        answer = client.get("/v1/broken")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (500, "internal_error", "server_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in error["message"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (logged,) = [line for line in lines if line["event"] == "request failed"]
    assert "a secret of the database" in logged["exception"]
    assert logged["request_id"] == answer.headers["x-request-id"]


# ---- a database that is away or busy


#: What is answered from files, without the database.
FILES = ("/openapi.json", "/static", "/guide", "/llms.txt")


def asked_of_every_route(application: FastAPI, headers: dict[str, str]) -> Iterator[tuple[str, httpx2.Response]]:
    """What each route answers to a request that is right but for the ids in it."""
    with TestClient(application, base_url="http://testserver") as client:
        for method, path, route in routes(application):
            if path in FILES or path in ("/healthz", "/readyz") or "stream" in path:
                continue
            url = re.sub(r"{.*?}", "x", path)
            body = {} if method == "GET" else {"json": BODIES.get(operation(route), {})}
            yield f"{method} {path}", client.request(method, url, headers=headers, **body)


def test_every_route_says_that_the_database_is_away(tmp_path: Path) -> None:
    """503 with Retry-After, also where it is asked for the key; only pages without data and health answer."""
    settings = Settings(data_dir=tmp_path, database_url=f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/x")
    answers = dict(asked_of_every_route(create_app(settings), {}))
    free = {route for route, answer in answers.items() if answer.status_code != 503}
    assert free == {
        "GET /docs", "GET /v1/freeze_policies/schema", "GET /v1/signing_keys", "GET /v1/webhook_event_types",
        "GET /v1/log/tile/{tile:path}",  # from the storage
        "POST /v1/freeze_policies/preview", "POST /v1/models",  # of an architecture, of a folder that is not there
        "POST /new/model", "POST /models/delete",  # forms without their fields
    }  # fmt: skip
    for route, answer in answers.items():
        if route not in free and answer.headers["content-type"] == "application/json":
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("server_error", "database_unavailable"), route
            assert answer.headers["retry-after"] == "5" and "secret" not in answer.text
    with_keys = create_app(settings.model_copy(update={"auth": "required"}))
    for route, answer in asked_of_every_route(with_keys, {"authorization": f"Bearer pf_aaaaaaaa_{'0' * 64}"}):
        # No data, or a form of no page of ours; without a sign-in provider its page is the form for a key.
        alone = ("GET /docs", "GET /login", "GET /login/provider", "GET /login/callback", "POST /login", "POST /logout")
        assert answer.status_code == 503 or route in alone, (route, answer.status_code)


def test_connections_that_are_cut_are_no_bug(tmp_path: Path, postgres_server: str) -> None:
    """The database goes away under connections that are open: 503 for reads and writes."""
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", b"{}")}}
    with ExitStack() as database:
        url = database.enter_context(fresh_database(postgres_server))
        application = create_app(Settings(data_dir=tmp_path, database_url=url))
        tables().create_all(application.state.backends.database.engine)
        with TestClient(application, base_url="http://testserver/v1/") as client:
            assert client.post("files", **form).status_code == 200  # type: ignore[arg-type]
            database.close()
            answers = [client.get("files"), client.post("files", **form)]  # type: ignore[arg-type]
    assert [answer.json()["error"]["code"] for answer in answers] == ["database_unavailable"] * 2


def test_a_locked_sqlite_file_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes and does not end: reads go on, writes get 503 instead of an error of ours."""
    monkeypatch.setattr("app.db.BUSY_SECONDS", 0.1)
    application = create_app(Settings(data_dir=tmp_path))
    tables().create_all(application.state.backends.database.engine)
    with closing(sqlite3.connect(tmp_path / "permafrost.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with TestClient(application, base_url="http://testserver/v1/") as client:
            form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", b"{}")}}
            busy = client.post("files", **form)  # type: ignore[arg-type]
            assert (busy.status_code, busy.json()["error"]["code"]) == (503, "database_unavailable")
            assert busy.headers["retry-after"] == "5"
            assert client.get("files").json()["data"] == []
            other.execute("ROLLBACK")
            assert client.post("files", **form).status_code == 200  # type: ignore[arg-type]


def test_an_error_of_the_database_that_is_a_bug_stays_one(tmp_path: Path) -> None:
    """Without tables: nothing that waiting would mend."""
    with TestClient(create_app(Settings(data_dir=tmp_path)), base_url="http://testserver/v1/") as client:
        answer = client.get("files")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
