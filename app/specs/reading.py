"""JSON to frozen dataclasses and back, by the type hints of their fields. Unknown and ill-typed fields are refused."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from app.errors import InvalidRequest
from app.jsontypes import JsonDict


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number as metadata of its type, `Annotated[int, Range(1)]`: inclusive but for those in `without`."""

    low: float
    high: float = math.inf
    without: tuple[float, ...] = ()

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high and number not in self.without

    def __str__(self) -> str:
        if self.high < math.inf and not self.without:
            return f"between {self.low:g} and {self.high:g}"
        low = f"above {self.low:g}" if self.low in self.without else f"of at least {self.low:g}"
        high = f"below {self.high:g}" if self.high in self.without else f"at most {self.high:g}"
        return " and ".join([low] * (self.low > -math.inf) + [high] * (self.high < math.inf))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A part of a job. An optional field is None where the JSON has null or lacks it, and `to_json` leaves it out."""

    PARAM: ClassVar[str]  # where a request has it, for error messages
    ERROR: ClassVar[type[InvalidRequest]] = InvalidRequest

    @classmethod
    def from_json(cls, content: Any, *, param: str | None = None) -> Self:
        """Raises `cls.ERROR`, with the path of the field as `param`, for a missing, unknown or ill-typed one."""
        return read(cls, content, param=param or cls.PARAM)

    def to_json(self) -> JsonDict:
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: _plain(value) for name, value in given if value is not None}


T = TypeVar("T", bound=Spec)


def read(cls: type[T], content: Any, *, param: str) -> T:
    """An instance of `cls` from a JSON object. Values keep the type that the JSON has: 16 stays a whole number."""
    if not isinstance(content, Mapping):
        raise cls.ERROR(f"{param} is {content!r}, and must be an object", param=param)
    own_fields = _fields(cls)
    refuse_unknown(content, own_fields, param=param, error=cls.ERROR)
    present = {name: value for name, value in content.items() if value is not None}
    for name, (field, _) in own_fields.items():
        if name not in present and field.default is MISSING and field.default_factory is MISSING:
            raise cls.ERROR(f"{param} lacks {name!r}", param=f"{param}.{name}")
    try:
        return cls(
            **{name: _value(own_fields[name][1], value, param=f"{param}.{name}") for name, value in present.items()}
        )
    except _IllTyped as wrong:
        raise cls.ERROR(str(wrong), param=wrong.param) from None


def read_tagged(classes: Sequence[type[T]], content: Any, *, param: str) -> T:
    """An instance of the one of `classes` whose `type` the JSON object has; of a single class whatever it has."""
    if len(classes) == 1:
        return classes[0].from_json(content, param=param)
    by_type = {str(_fields(each)["type"][0].default): each for each in classes}
    kind = content.get("type") if isinstance(content, Mapping) else None
    if not isinstance(kind, str) or kind not in by_type:
        message = f"{param} is of no type {kind!r}; there are {', '.join(by_type)}"
        raise classes[0].ERROR(message, param=f"{param}.type")
    return by_type[kind].from_json(content, param=param)


def refuse_unknown(
    content: Iterable[str], known: Iterable[str], *, param: str, error: type[InvalidRequest] = InvalidRequest
) -> None:
    """Raises `error` for a name that is not in `known`, with the nearest one that is."""
    names = sorted(known)
    for name in content:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise error(f"{param} has no {name!r}; {hint}", param=f"{param}.{name}")


class _IllTyped(Exception):
    """A value that does not have the type of its field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def _hints(cls: Any) -> dict[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: (field, hints[field.name]) for field in fields(cls)}


_fields: Callable[[Any], dict[str, tuple[Field[Any], Any]]] = cache(_hints)


def _value(hint: Any, value: Any, *, param: str) -> Any:
    """`value` as a field of the type `hint` holds it: lists as tuples, objects as dataclasses, all else unchanged."""
    kinds = _members(hint)
    if parts := [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Spec)]:
        return read_tagged(parts, value, param=param)
    for kind in kinds:
        if get_origin(kind) is tuple and isinstance(value, list | tuple) and _is_as_long(kind, value):
            inner = get_args(kind)[0]
            return tuple(_value(inner, item, param=f"{param}[{at}]") for at, item in enumerate(value))
        if _fits(kind, value):
            return value
    wanted = " or ".join(dict.fromkeys(map(_words, kinds)))
    message = f"{param.rpartition('.')[2]} is {value!r}, and must be {wanted}"
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    near = difflib.get_close_matches(str(value), choices, n=1)
    raise _IllTyped(f"{message}; did you mean {near[0]!r}?" if near else message, param)


def _is_as_long(kind: Any, value: Sequence[Any]) -> bool:
    return get_args(kind)[1] is Ellipsis or len(get_args(kind)) == len(value)


def _members(hint: Any) -> list[Any]:
    """The types of a union, without None."""
    if get_origin(hint) not in (Union, UnionType):
        return [hint]
    return [member for each in get_args(hint) for member in _members(each) if member is not NoneType]


def _fits(kind: Any, value: Any) -> bool:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, limits = get_args(kind)
        return _fits(inner, value) and value in limits
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, origin or kind)


def _words(kind: Any) -> str:
    """A type as an error message names it."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, limits = get_args(kind)
        return f"{_words(inner)} {limits}"
    if origin is Literal:
        choices = [str(each) for each in get_args(kind)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])
    if origin is tuple:
        inner, length = get_args(kind)
        several = "a list of" if length is Ellipsis else "a pair of"
        return f"{several} {_SEVERAL.get(inner, 'numbers')}"
    return _WORDS.get(origin or kind, "an object")


_SEVERAL = {str: "strings", int: "whole numbers"}
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string"}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value
