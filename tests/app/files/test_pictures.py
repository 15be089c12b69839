"""Pictures in training files: what is read as the bytes of an image file, and what is refused by name."""

import base64
from typing import Any

import pytest

from app.files.fields import FieldChecks
from app.files.pictures import Picture
from tests.app.files.training_files import PNG

TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "value",
    [
        PNG,
        {"bytes": PNG, "path": None},
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:IMAGE/PNG;charset=x;base64,{TEXT}",
    ],
)
def test_forms_of_one_picture(value: Any) -> None:
    """Bytes, the `datasets` library's struct, base64 and data URIs are the same picture."""
    checks = FieldChecks()
    assert Picture(checks, "image", value).data() == PNG
    assert checks.problems == []


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("https://example.com/cat.png", "not_a_data_uri", "address (https)"),
        ("file:///etc/passwd", "not_a_data_uri", "data:image/png;base64,"),
        ("%%%", "not_base64", "base64 in JSONL"),
        (f"data:image/png,{TEXT}", "not_base64", "without ';base64'"),
        ("data:image/png;base64,%%%", "not_base64", "not base64"),
        (f"data:image/jpeg;base64,{TEXT}", "wrong_mime", "those of image/png"),
        (f"data:text/html;base64,{TEXT}", "wrong_mime", "pictures are image/png"),
        ("aGVsbG8=", "not_an_image", "does not start like a PNG"),
        ("", "not_an_image", "is empty"),
        (7, "wrong_type", "a number"),
    ],
)
def test_what_is_no_picture(value: Any, code: str, said: str) -> None:
    """Each is one problem that says what to write."""
    checks = FieldChecks(line=3)
    assert Picture(checks, "image", value).data() == b""
    [problem] = checks.problems
    assert (problem.line, problem.field, problem.code) == (3, "image", code)
    assert said in problem.message


def test_a_url_must_be_a_data_uri() -> None:
    """Bare base64 in `image_url` is a mistake; no path is opened."""
    checks = FieldChecks()
    Picture(checks, "image_url.url", TEXT, uri=True).data()
    assert [problem.code for problem in checks.problems] == ["not_a_data_uri"]
