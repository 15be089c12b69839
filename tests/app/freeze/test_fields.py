"""Typed access to a policy's JSON: a wrong field is refused with its path and with what would be valid."""

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import PolicyError
from app.freeze import fields


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: fields.keys({"freze": 1}, "p", ("freeze", "train")), "did you mean 'freeze'?"),
        (lambda: fields.keys({"zzz": 1}, "p", ("freeze",)), "there are freeze"),
        (lambda: fields.keys([], "p", ("freeze",)), "must be an object, not a list"),
        (lambda: fields.entries([], "p"), "at least one entry"),
        (lambda: fields.entries([0] * (fields.MAX_RANGES + 1), "p"), "at most 10000"),
        (lambda: fields.strings([], "p", str), "at least one string"),
        (lambda: fields.string(7, "p", str), "must be a string, not a number"),
        (lambda: fields.string("\ud800", "p", str), "half of a surrogate pair"),
        (lambda: fields.identifier("default", "p"), "choose another"),
        (lambda: fields.identifier(" x", "p"), "a letter or digit first"),
        (lambda: fields.choice("x", "p", ("a", "b")), "must be one of 'a', 'b', not 'x'"),
        (lambda: fields.boolean(1, "p"), "must be true or false, not 1"),
        (lambda: fields.integer(True, "p", 0), "not True"),
        (lambda: fields.integer(2**53, "p", 0), "below 2**53"),
    ],
)
def test_says_what_would_be_valid(read: Callable[[], Any], says: str) -> None:
    with pytest.raises(PolicyError, match=None) as caught:
        read()
    assert says in str(caught.value)
    assert (caught.value.param or "").startswith("p")


def test_null_is_a_key_left_out() -> None:
    assert fields.given({"a": None, "b": 1}, "p", ("a", "b")) == {"b": 1}


def test_repeated_strings_count_once() -> None:
    assert fields.strings(["a", "b", "a"], "p", str) == ("a", "b")
