"""Training files in a temporary folder."""

from pathlib import Path

import pytest


@pytest.fixture
def put(tmp_path):
    def put(content: bytes | str, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put
