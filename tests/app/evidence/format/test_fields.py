"""Typed access to JSON fields: the right type comes back, and any other is refused with its path."""

from collections.abc import Callable
from typing import Any

import pytest

from app.evidence.format import fields
from app.evidence.format.fields import StatementError


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.text, "a"),
        (fields.flag, False),
        (fields.count, 2**63 - 1),
        (fields.as_list, []),
        (fields.hex, "ab" * 32),
        (fields.optional_hex, None),
        (fields.optional_text, None),
    ],
)
def test_returns_fields_of_the_right_type(read: Callable[..., Any], value: Any) -> None:
    assert read({"x": value}, "x", "top") == value


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.text, 1),
        (fields.flag, 0),
        (fields.count, True),
        (fields.count, -1),
        (fields.count, 2**63),
        (fields.count, 1.0),
        (fields.as_list, {}),
        (fields.hex, "AB" * 32),
        (fields.hex, "ab" * 31),
        (fields.optional_hex, ""),
        (fields.shape, [1, -1]),
        (fields.texts, ["a", 1]),
    ],
)
def test_names_the_path_of_fields_of_another_type(read: Callable[..., Any], value: Any) -> None:
    with pytest.raises(StatementError, match=r"^top\.x: "):
        read({"x": value}, "x", "top")


def test_names_the_path_of_missing_fields() -> None:
    with pytest.raises(StatementError, match=r"^top\.x: missing$"):
        fields.field_of({}, "x", "top")
