"""Values of fields: nested JSON that templates will print."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.files.fields import MAX_DEPTH, FieldChecks, without_nulls

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def codes(value: Any) -> list[str]:
    checks = FieldChecks()
    checks.refuse_no_json("arguments", value)
    return [problem.code for problem in checks.problems]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@given(JSON)
def test_json_is_json(value: Any) -> None:
    """Whatever JSON can hold passes, save for the texts that are refused everywhere."""
    assert set(codes(value)) <= {"nul_byte", "not_unicode"}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"a": [{"b": "\ud800"}]}, "not_unicode"),
        ({"a": {"\ud800": 1}}, "not_unicode"),
        ({"a": ["\0"]}, "nul_byte"),
        ([float("nan")], "not_finite"),
        ({"a": b"x"}, "wrong_type"),
        (nested(MAX_DEPTH), "too_deep"),
    ],
)
def test_what_is_not_json_is_named(value: Any, code: str) -> None:
    """At any depth, once for the field."""
    assert codes(value) == [code]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5_000, ""])
def test_text_that_is_not_json(text: str) -> None:
    """A problem, and no error, however deep or long it is."""
    checks = FieldChecks()
    assert checks.parsed_json("arguments", text) is None
    assert [problem.code for problem in checks.problems] in (["not_json"], ["too_deep"])


def test_without_nulls() -> None:
    """Null fields are absent; others stay as they are."""
    assert without_nulls({"a": None, "b": 0}) == {"b": 0}
