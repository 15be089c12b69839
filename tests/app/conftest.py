"""The API over a fresh deployment: in process for most tests, over a real socket where sockets matter."""

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI
from starlette.testclient import TestClient

from app.http.request_head import PARSER
from app.main import create_app
from app.settings import Settings
from tests.app.clients import Blocking
from tests.conftest import Deployment
from tests.patience import PATIENCE

AFFINE = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 2, "out_features": 1}}


@pytest.fixture
def application(deployment: Deployment) -> FastAPI:
    """On SQLite with the file-system broker, then on PostgreSQL with Redis."""
    return create_app(deployment.settings)


@pytest.fixture
def api(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://testserver/v1/") as client:
        yield client


@pytest.fixture
def embedded(tmp_path: Path, sqlite_tables: Path) -> FastAPI:
    """On SQLite alone, for what no database has a say in."""
    (tmp_path / "data").mkdir(exist_ok=True)
    shutil.copyfile(sqlite_tables, tmp_path / "data" / "permafrost.db")
    return create_app(Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"))


@pytest.fixture
def client(embedded: FastAPI) -> Iterator[TestClient]:
    with TestClient(embedded, base_url="http://testserver/v1/") as made:
        yield made


@pytest.fixture
def socket_url(embedded: FastAPI) -> Iterator[str]:
    """The embedded application behind a real uvicorn on a real port."""
    with serve(embedded) as url:
        yield url


#: The official SDK's clients: validating every answer against its own types or not, synchronous or not.
CLIENTS = ["strict", "default", "strict-async", "default-async"]


@pytest.fixture(params=CLIENTS)
def openai(request: pytest.FixtureRequest, socket_url: str) -> Iterator[OpenAI]:
    """The official SDK, each of its clients, over a real socket."""
    with client_of(request.param, f"{socket_url}/v1") as sdk:
        yield sdk


@contextlib.contextmanager
def client_of(kind: str, url: str) -> Iterator[OpenAI]:
    options: Any = {"base_url": url, "api_key": "none", "max_retries": 0}
    options["_strict_response_validation"] = kind.startswith("strict")
    if not kind.endswith("async"):
        with OpenAI(**options) as sdk:
            yield sdk
        return
    with asyncio.Runner() as runner:
        made = AsyncOpenAI(**options)
        yield cast(OpenAI, Blocking(made, runner.get_loop()))
        runner.run(made.close())


class serve:  # noqa: N801 - reads as a verb where it is used
    """Runs an application behind uvicorn in a thread, until the block ends."""

    def __init__(self, application: FastAPI) -> None:
        config = uvicorn.Config(application, log_config=None, timeout_graceful_shutdown=2, **PARSER)
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()


Upload = Callable[..., str]


def upload_to(client: httpx2.Client) -> Upload:
    """A function that uploads examples (or bytes as they are) and returns the file's id."""

    def upload(rows: list[dict[str, Any]] | bytes, *, name: str = "train.jsonl", purpose: str = "fine-tune") -> str:
        body = rows if isinstance(rows, bytes) else "\n".join(map(json.dumps, rows)).encode()
        answer = client.post("files", data={"purpose": purpose}, files={"file": (name, body)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    return upload


@pytest.fixture
def upload(client: TestClient) -> Upload:
    return upload_to(client)


def rows(count: int = 8) -> list[dict[str, Any]]:
    """Tabular examples that affine can be trained on."""
    return [{"x": [float(n), float(n % 3)], "y": 2.0 * n} for n in range(count)]


Create = Callable[..., dict[str, Any]]


@pytest.fixture
def create(api: TestClient) -> Create:
    """Posts a job on a small file and returns it."""
    file = upload_to(api)(rows())

    def post(**more: Any) -> dict[str, Any]:
        headers = more.pop("headers", {})
        answer = api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file, **more}, headers=headers)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "headers": answer.headers}

    return post
