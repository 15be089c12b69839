"""The kinds of secrets, and the fields of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from app.errors import InvalidRequest

SecretKind = Literal["hub", "s3", "mlflow", "trackio", "wandb"]
#: What no token or key has: the rest would break a header, or hide in a terminal.
_WRITTEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields that a kind needs and those that it may have. A bare text is the value of the only needed one."""

    needed: tuple[str, ...]
    others: tuple[str, ...] = ()


_FIELDS: Final[dict[SecretKind, _Fields]] = {
    "hub": _Fields(("token",)),
    "mlflow": _Fields(("token",), ("username",)),  # with a user name, the token is its password
    "trackio": _Fields(("token",)),  # the server's write token
    "wandb": _Fields(("token",)),  # an API key
    "s3": _Fields(("access_key_id", "secret_access_key"), ("session_token", "endpoint_url", "region")),
}
KINDS: Final[tuple[SecretKind, ...]] = get_args(SecretKind)


@dataclass(frozen=True, slots=True)
class OpenedSecret:
    """A secret for one request to another service. Its fields are in no representation that a log could show."""

    name: str
    fields: dict[str, str] = field(repr=False)


def fields_of(kind: SecretKind, value: str | Mapping[str, str]) -> dict[str, str]:
    """The fields of a secret as a request gives it. Raises InvalidRequest, whose message never has a value in it."""
    fields = _FIELDS[kind]
    if isinstance(value, str):
        if len(fields.needed) > 1:
            raise _invalid("value", f"a secret of the kind {kind} is an object with {_listed(fields)}")
        value = {fields.needed[0]: value}

    for name in (*fields.needed, *value):
        if name not in value:
            raise _invalid(f"value.{name}", f"this field is required; the kind {kind} has {_listed(fields)}")
        if name not in (*fields.needed, *fields.others):
            raise _invalid("value", f"the kind {kind} has {_listed(fields)}, and the value has another field")
        if not _WRITTEN.fullmatch(value[name]):
            raise _invalid(f"value.{name}", "must be 1 to 4096 printable ASCII characters, without spaces or line ends")
    return dict(value)


def _invalid(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {message}", param=param, code="invalid_value")


def _listed(fields: _Fields) -> str:
    needed = " and ".join(f"`{name}`" for name in fields.needed)
    others = ", ".join(f"`{name}`" for name in fields.others)
    return f"{needed}, and if needed {others}" if others else needed
