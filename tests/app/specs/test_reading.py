"""The reader of specs: by the types of a dataclass's fields, and strict about what they allow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest

from app.errors import DataError, InvalidRequest
from app.specs.reading import Range, Spec, read_tagged, refuse_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Spec):
    PARAM: ClassVar[str] = "inner"
    size: Annotated[int, Range(1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Spec):
    PARAM: ClassVar[str] = "outer"
    ERROR: ClassVar[type[InvalidRequest]] = DataError
    type: Literal["outer"] = "outer"
    name: str
    share: Annotated[float, Range(0, 1)] | None = None
    pair: tuple[int, int] | None = None
    inner: tuple[Inner, ...] | None = None
    options: Mapping[str, Any] | None = None


def test_values_keep_their_types() -> None:
    """A whole number where a float is allowed stays one; lists become tuples, objects the specs of their fields."""
    content = {"name": "x", "share": 1, "pair": [1, 2], "inner": [{"size": 3}], "options": {"a": [1.0, None]}}
    spec = Outer.from_json(content)
    assert (spec.share, type(spec.share), spec.pair, spec.inner) == (1, int, (1, 2), (Inner(size=3),))
    assert spec.to_json() == {"type": "outer", **content}


def test_null_and_absent_are_one() -> None:
    """Neither is written back."""
    assert Outer.from_json({"name": "x", "share": None}) == Outer.from_json({"name": "x"}) == Outer(name="x")
    assert Outer(name="x").to_json() == {"type": "outer", "name": "x"}


@pytest.mark.parametrize(
    ("content", "param", "says"),
    [
        (3, "outer", "must be an object"),
        ({}, "outer.name", "lacks 'name'"),
        ({"name": None}, "outer.name", "lacks 'name'"),
        ({"name": "x", "nmae": 1}, "outer.nmae", "did you mean 'name'?"),
        ({"name": "x", "share": True}, "outer.share", "a finite number between 0 and 1"),
        ({"name": "x", "share": float("nan")}, "outer.share", "between 0 and 1"),
        ({"name": "x", "share": 2}, "outer.share", "between 0 and 1"),
        ({"name": "x", "pair": [1]}, "outer.pair", ""),
        ({"name": "x", "inner": [{"size": 1}, {"size": 0}]}, "outer.inner[1].size", "of at least 1"),
        ({"name": "x", "inner": [{"size": 1, "x": 1}]}, "outer.inner[0].x", "'x'"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, param: str, says: str) -> None:
    """By its path, with what would fit, in the error of the outermost spec's kind."""
    with pytest.raises(InvalidRequest) as refused:
        Outer.from_json(content)
    assert refused.value.param == param
    assert says in refused.value.message
    assert isinstance(refused.value, DataError) or ".inner[" in param


def test_ranges_are_said_in_words() -> None:
    """As they are in the messages."""
    ranges = [
        Range(1),
        Range(0, 1),
        Range(0, without=(0,)),
        Range(-1, 1, without=(1,)),
        Range(float("-inf"), 0, without=(0,)),
    ]
    assert [str(each) for each in ranges] == [
        "of at least 1",
        "between 0 and 1",
        "above 0",
        "of at least -1 and below 1",
        "below 0",
    ]
    assert (0 in Range(0, without=(0,)), 0 in Range(0)) == (False, True)


def test_a_single_class_needs_no_type() -> None:
    """One of several is chosen by its `type`."""
    assert read_tagged([Inner], {"size": 1}, param="p") == Inner(size=1)
    with pytest.raises(InvalidRequest, match="p is of no type 'other'; there are outer"):
        read_tagged([Outer, Outer], {"type": "other"}, param="p")


def test_names_without_a_near_one_are_listed() -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_unknown(["zzz"], ["b", "a"], param="p")
    assert "known are a, b" in refused.value.message
