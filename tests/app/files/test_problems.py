"""Words of problems: what kind a value is, which name is nearest, how a library's error is quoted."""

import io
from typing import Any

import pytest

from app.files.problems import LineProblem, count_of, first_line, kind_of, nearest


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (0.5, "a number"),
        ("a", "a string"),
        ([], "an array"),
        ({}, "an object"),
        (b"", "binary"),
    ],
)
def test_values_are_called_what_json_calls_them(value: Any, kind: str) -> None:
    """A boolean is not a number, although Python says so."""
    assert kind_of(value) == kind


def test_the_nearest_name_is_a_question() -> None:
    """Nothing is guessed when no name is close."""
    assert nearest("lable", ["text", "label"]) == " (did you mean 'label'?)"
    assert nearest("xyz", ["text", "label"]) == ""


def test_counts_have_the_right_plural() -> None:
    """One value, two values, thousands with separators."""
    assert [count_of(number, "value") for number in (1, 2, 1000)] == ["1 value", "2 values", "1,000 values"]


def test_long_errors_of_libraries_are_cut() -> None:
    """The first line, 200 characters at most; the type when there is no message."""
    assert first_line(ValueError("a" * 300 + "\nb")) == "a" * 200
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError(f"cannot identify image file {io.BytesIO()!r}")) == "cannot identify image file"
    assert first_line(ValueError(repr(io.BytesIO()))) == "ValueError"


def test_a_problem_has_four_fields_in_an_answer() -> None:
    """As the API documents `errors`."""
    problem = LineProblem(3, "text", "empty_value", "'text' is empty")
    assert problem.to_json() == {"line": 3, "field": "text", "code": "empty_value", "message": "'text' is empty"}
