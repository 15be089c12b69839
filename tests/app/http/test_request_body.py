"""Unknown fields of a request body are refused by name, with the nearest known name."""

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from app.http.request_body import RequestBody


class Inner(RequestBody):
    type: Literal["inner"] = "inner"
    start: int = Field(default=0, alias="from")
    stop: int = 1


class Other(RequestBody):
    type: Literal["other"]
    width: int


class Outer(RequestBody):
    inner: Inner | Other = Field(default=Inner(), discriminator="type")
    seed: int | None = None
    weight: float = 1.0

    @model_validator(mode="after")
    def _even(self) -> "Outer":
        if self.seed is not None and self.seed % 2:
            raise ValueError("the seed is odd")
        return self


def problems(body: Any) -> list[tuple[str, tuple[Any, ...], str]]:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(body)
    return [(problem["type"], problem["loc"], problem["msg"]) for problem in refused.value.errors()]


@pytest.mark.parametrize(
    ("body", "location", "message"),
    [
        ({"sed": 1}, ("sed",), "unknown field 'sed'; did you mean 'seed'?"),
        ({"xyz": 1}, ("xyz",), "unknown field 'xyz'; known here: inner, seed, weight"),
        (
            {"inner": {"type": "inner", "form": 1}},
            ("inner", "inner", "form"),
            "unknown field 'form'; did you mean 'from'?",
        ),
        ({"inner": {"type": "other", "width": 1, "widht": 2}}, ("inner", "other", "widht"), "did you mean 'width'?"),
        ({"{seed}": 1}, ("{seed}",), "unknown field '{seed}'; did you mean 'seed'?"),
    ],
)
def test_an_unknown_field_gets_the_nearest_name(body: Any, location: tuple[str, ...], message: str) -> None:
    """By the name in JSON, of the part that it was written into."""
    [(kind, found, text)] = problems(body)
    assert (kind, found) == ("extra_forbidden", location)
    assert message in text


def test_all_problems_are_kept() -> None:
    """Beside the unknown names, each wrong value and each missing field with its own message and place."""
    body = {"inner": {"type": "other"}, "seed": "1", "weight": float("nan"), "sed": 1, "wight": 1}
    assert [(kind, location) for kind, location, _ in problems(body)] == [
        ("missing", ("inner", "other", "width")),
        ("int_type", ("seed",)),
        ("finite_number", ("weight",)),
        ("extra_forbidden", ("sed",)),
        ("extra_forbidden", ("wight",)),
    ]


def test_a_check_of_the_whole_is_kept() -> None:
    """A ValueError of a validator is reported in its own words."""
    assert problems({"seed": 3}) == [("value_error", (), "Value error, the seed is odd")]


def test_a_good_body_is_taken() -> None:
    """And its fields are those that were sent."""
    body = Outer.model_validate({"inner": {"type": "inner", "from": 2}, "seed": 4})
    assert (body.inner, body.seed) == (Inner(**{"from": 2}), 4)  # type: ignore[arg-type]
