"""Blobs, rows and findings for tests of the doctor."""

import os
import time
from typing import Any

from app.files.tables import File
from app.http.dependencies import Backends
from app.ops.doctor.finding import Finding
from app.storage.blobs import Storage

OLD = 7200.0


def put(storage: Storage, data: bytes, *, age: float = OLD) -> str:
    with storage.writer() as writer:
        writer.write(data)
    return aged(storage, writer.blob.key, age)


def aged(storage: Storage, key: str, age: float = OLD) -> str:
    assert storage.root is not None
    os.utime(storage.root / key, (time.time() - age,) * 2)
    return key


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.kind, each.object) for each in findings]


def row_of(backends: Backends, kind: type[Any], row_id: str) -> Any:
    with backends.database.read() as session:
        return session.get(kind, row_id)


def blob_of(backends: Backends, file_id: str) -> str:
    return str(row_of(backends, File, file_id).blob)
