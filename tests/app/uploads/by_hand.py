"""Uploads in parts as a client without the SDK makes them, and what is stored of them."""

import io
from typing import Any

from fastapi import FastAPI
from sqlalchemy import update
from starlette.testclient import TestClient

from app.db import now
from app.http.dependencies import Backends
from app.uploads.assembly import GRACE
from app.uploads.tables import Upload

CONTENT = b"".join(b'{"x":[1,2],"y":%d}\n' % at for at in range(3000))


def begin(api: TestClient, size: int = len(CONTENT), **more: Any) -> dict[str, Any]:
    wanted = {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": size, "mime_type": "application/jsonl"}
    answer = api.post("uploads", json=wanted | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def part(api: TestClient, upload: str, data: bytes) -> str:
    answer = api.post(f"uploads/{upload}/parts", files={"data": ("blob", io.BytesIO(data))})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def complete(api: TestClient, upload: str, part_ids: list[str], **more: Any) -> Any:
    return api.post(f"uploads/{upload}/complete", json={"part_ids": part_ids, **more})


def error(answer: Any) -> tuple[int, str, str | None]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


def parts_stored(application: FastAPI) -> list[str]:
    backends: Backends = application.state.backends
    assert backends.storage.root is not None
    return [str(path.name) for path in (backends.storage.root / "uploads").rglob("part-*")]


def expire(application: FastAPI, upload: str) -> None:
    """Lets an upload be past its time, by the database's clock, and past what maintenance waits for."""
    with application.state.backends.database.write() as session:
        past = now(session) - GRACE * 2
        session.execute(update(Upload).where(Upload.id == upload).values(expires_at=past))
