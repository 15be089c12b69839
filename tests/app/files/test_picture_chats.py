"""Conversations about pictures: the shapes that are read, the one shape that they become, and each mistake by part."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import DataError
from app.files.examples import ExampleReader
from app.files.formats import infer_task, validate
from app.files.lines import MAX_LINE
from tests.app.files.training_files import CHAT, PICTURE, PICTURE_CHAT, PNG, lines, read

ANSWER = {"role": "assistant", "content": "a cat"}
ADDRESS = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
TEXT = base64.b64encode(PNG).decode()


def record(*parts: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(parts)}, ANSWER], **more}


def problems(content: dict[str, Any]) -> list[tuple[str | None, str]]:
    reader = ExampleReader(task="image-text")
    assert reader.read(1, content) is None
    return [(problem.field, problem.code) for problem in reader.problems]


@pytest.mark.parametrize(
    "content",
    [
        record(PICTURE),
        record({"type": "image_url", "image_url": ADDRESS}),
        record({"type": "image_url", "image_url": {"url": ADDRESS, "detail": "low"}}),
        record({"type": "input_image", "image_url": ADDRESS}),
        record({"type": "image", "image": TEXT}),
        record({"type": "image", "base64": TEXT}),
        record({"type": "image", "url": ADDRESS}),
        record({"type": "image"}, images=[TEXT]),
        record({"type": "image"}, images=[{"bytes": PNG, "path": "a.png"}]),
    ],
)
def test_shapes_of_one_picture(content: dict[str, Any]) -> None:
    """OpenAI's parts, those of transformers' templates, and pictures apart."""
    example = ExampleReader(task="image-text").read(1, content)
    assert example is not None
    name = "messages[0].content[0]"
    assert example["messages"][0]["content"] == [{"type": "image", "image": PNG, "name": name}]
    assert example["messages"][1]["content"] == [{"type": "text", "text": "a cat"}]


@pytest.mark.parametrize(
    ("content", "field", "code"),
    [
        (record({"type": "image"}), "messages[0].content[0]", "missing_picture"),
        (record({"type": "image_url"}), "messages[0].content[0]", "missing_picture"),
        (record({"type": "text", "text": "hi"}, images=[TEXT]), "images", "unused_picture"),
        (record(PICTURE, images=7), "images", "wrong_type"),
        (record(PICTURE, role="system"), "messages[0].content[0]", "unsupported_part"),
        (record({"type": "video", "video": TEXT}), "messages[0].content[0]", "unsupported_part"),
        (record({**PICTURE, "size": 3}), "messages[0].content[0].size", "unknown_field"),
        (record({"type": "image", "image": TEXT, "url": TEXT}), "messages[0].content[0].url", "conflict"),
        (
            record({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}),
            "messages[0].content[1].image_url.url",
            "not_a_data_uri",
        ),
    ],
)
def test_mistakes_by_part(content: dict[str, Any], field: str, code: str) -> None:
    """Line, message and part."""
    assert (field, code) in problems(content)


def test_the_task_is_seen_from_the_pictures(tmp_path: Path) -> None:
    """Conversations of texts stay `causal-lm`, which refuses pictures and names the task for them."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(CHAT, CHAT))
    assert infer_task(path, "jsonl") == "causal-lm"
    path.write_bytes(lines(CHAT, PICTURE_CHAT))
    assert infer_task(path, "jsonl") == "image-text"
    with pytest.raises(DataError, match="image-text"):
        validate(path, format="jsonl", task="causal-lm")


def test_parquet_with_bytes(tmp_path: Path) -> None:
    """Pictures beside the messages, as the `datasets` library writes them, several in one turn."""
    parts = [{"type": "image", "text": None}, {"type": "image", "text": None}, {"type": "text", "text": "which"}]
    answer = [{"type": "text", "text": "the first"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    rows = [{"messages": messages, "images": [{"bytes": PNG, "path": None}] * 2}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert infer_task(tmp_path / "train.parquet", "parquet") == "image-text"
    [first, _] = read(tmp_path / "train.parquet", format="parquet", task="image-text")
    assert [part["type"] for part in first["messages"][0]["content"]] == ["image", "image", "text"]
    assert first["messages"][0]["content"][1]["image"] == PNG


def test_lines_of_pictures_are_longer(tmp_path: Path) -> None:
    """A photograph as base64 is more than a line of text may have."""
    photograph = base64.b64encode(PNG + bytes(MAX_LINE)).decode()
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(record({"type": "image", "image": photograph})) + "\n" + json.dumps(PICTURE_CHAT))
    assert validate(path, format="jsonl", task="image-text").examples == 2
