"""Which files a job learns from: read, written back, and refused by the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from app.errors import DataError
from app.specs.data import DataSpec
from tests.app.specs.contents import LISTS, NAMES, objects, same

DATA = objects(features=LISTS, target=NAMES | LISTS, format=NAMES, training=NAMES, validation=NAMES)


@given(DATA)
def test_data_comes_back_as_it_was(content: dict[str, Any]) -> None:
    """One target is a string or a list of one, as it was given."""
    assert same(DataSpec.from_json(content).to_json(), content)


def test_data_that_cannot_be_read_is_named() -> None:
    """Each kind of spec has the error of its kind."""
    with pytest.raises(DataError, match="must be a string or a list of strings"):
        DataSpec.from_json({"target": 3})


def test_targets_are_a_list_of_columns() -> None:
    """As a reader of tables takes them, whichever way they were written."""
    assert [DataSpec(target=target).targets for target in (None, "y", ("a", "b"))] == [(), ("y",), ("a", "b")]
