"""The fields of each kind of secret; refusals repeat no value."""

from typing import Any

import pytest

from app.errors import InvalidRequest
from app.secrets.kinds import OpenedSecret, SecretKind, fields_of

KEYS = {"access_key_id": "AKIA", "secret_access_key": "canary"}


def test_text_is_the_only_needed_field():
    """A hub's token is written as it is; keys of a store have names."""
    assert fields_of("hub", "hf_canary") == {"token": "hf_canary"} == fields_of("hub", {"token": "hf_canary"})
    assert fields_of("s3", KEYS | {"region": "eu-1"}) == KEYS | {"region": "eu-1"}


@pytest.mark.parametrize(
    ("kind", "value", "param"),
    [
        ("hub", "", "value.token"),
        ("hub", "hf canary", "value.token"),
        ("hub", "hf_canary\n", "value.token"),
        ("hub", {"token": "hf_canary", "canary": "x"}, "value"),
        ("hub", {}, "value.token"),
        ("s3", "canary", "value"),
        ("s3", {"access_key_id": "AKIA"}, "value.secret_access_key"),
        ("s3", KEYS | {"secret_access_key": "canary" * 1_000}, "value.secret_access_key"),
    ],
)
def test_what_is_no_secret_is_refused(kind: SecretKind, value: Any, param: str):
    """By the field that is wrong, with what would work."""
    with pytest.raises(InvalidRequest) as refused:
        fields_of(kind, value)
    assert refused.value.param == param
    assert "canary" not in refused.value.message


def test_no_value_is_in_a_representation():
    """Logs and tracebacks show objects by it."""
    assert "canary" not in repr(OpenedSecret("hub", {"token": "canary"}))
