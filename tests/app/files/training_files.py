"""Good training files of every task, and what validation says about a file."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import DataError
from app.files import formats
from app.files.formats import validate

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
PICTURE_CHAT = {
    "messages": [
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "what is it"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    ]
}
PREFERRED = {
    "input": {"messages": CHAT["messages"][:1], "tools": []},
    "preferred_output": CHAT["messages"][1:],
    "non_preferred_output": [{"role": "assistant", "content": "no"}],
}


GOOD: dict[str, list[dict[str, Any]]] = {
    "causal-lm": [CHAT, CHAT],
    "text-classification": [{"text": "a", "label": "x"}, {"text": "b", "label": "y", "text_pair": "c"}] * 2,
    "text-regression": [{"text": "a", "label": 1}, {"text": "b", "label": -0.5}],
    "text-ranking": [{"query": "a", "document": "b", "score": 1}, {"query": "a", "document": "c", "score": 0.25}],
    "token-classification": [{"tokens": ["a", "b"], "labels": ["O", "X"]}, {"tokens": ["c"], "labels": ["O"]}],
    "pairs": [{"anchor": "a", "positive": "b"}] * 2,
    "preference": [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2,
    "image-text": [PICTURE_CHAT] * 2,
    "contrastive-image-text": [{"text": "a cat", "image": base64.b64encode(PNG).decode()}] * 2,
    "image-classification": [{"image": base64.b64encode(PNG).decode(), "label": n} for n in "abab"],
    "tabular-regression": [{"x": [1, 2.5], "y": 3}, {"x": [0, -1], "y": 4.0}],
    "tabular-classification": [{"x": [1, 2], "y": "a"}, {"x": [0, 1], "y": "b"}] * 2,
}


def lines(*records) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


def problems(path: Path, **how) -> list[dict]:
    how = {"format": "jsonl"} | how
    with pytest.raises(DataError) as caught:
        validate(path, **how)
    assert caught.value.code == "invalid_training_data"
    assert caught.value.param == "training_file"
    assert all(set(entry) == {"line", "field", "code", "message"} for entry in caught.value.errors)
    return caught.value.errors


def found(path: Path, **how) -> list[tuple[int | None, str | None, str]]:
    return [(entry["line"], entry["field"], entry["code"]) for entry in problems(path, **how)]


def read(path: Path, **how) -> Iterator[dict]:
    """The examples without their lines."""
    return (example for _, example in formats.read(path, **how))
