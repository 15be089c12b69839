"""The base class of request bodies: an unknown field is refused with the nearest known name."""

import difflib
from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class RequestBody(BaseModel):
    """A request body or a part of one. Unknown fields, text instead of a number, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            names = sorted(field.alias or name for name, field in cls.model_fields.items())
            raise ValidationError.from_exception_data(error.title, list(_with_names(error, names))) from None


def _with_names(error: ValidationError, names: list[str]) -> Iterator[InitErrorDetails]:
    for problem in error.errors(include_url=False):
        message = problem["msg"]
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            name = str(problem["loc"][0])
            near = difflib.get_close_matches(name, names, n=1)
            message = f"unknown field {name!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
            )
        # Rebuilt as a custom error, which is the only kind whose message can be set.
        kind = PydanticCustomError(problem["type"], message)
        yield InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"])
