"""Specs of hyperparameters: read, written back, and refused by the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.jobs.requests import hyperparameters as requests
from app.specs.hyperparameters import Hyperparameters
from app.specs.optimizers import OptimizerSpec
from tests.app.specs.contents import objects, same

GROUPS = st.lists(
    st.fixed_dictionaries({"select": st.just({"name": ["**"]})}, optional={"options": st.just({"lr": 1})}), max_size=2
)


HYPERPARAMETERS = objects(
    n_epochs=st.just("auto") | st.integers(1, 9),
    learning_rate=st.integers(0, 2) | st.floats(0, 1),
    frozen_dropout=st.booleans(),
    prefix_cache=st.just("auto") | st.booleans(),
    beta=st.just("auto") | st.floats(0, 1),
    lr_schedule=st.sampled_from(["linear", "cosine"]),
    packing=st.booleans(),
    padding_free=st.just("auto") | st.booleans(),
    optimizer=objects(
        groups=GROUPS, betas=st.just([0.9, 0.99]), eps=st.floats(1e-9, 1), weight_decay=st.integers(0, 1)
    ).map(lambda fields: {"name": "adamw", **fields}),
)


@given(HYPERPARAMETERS)
def test_hyperparameters_come_back_as_they_were(content: dict[str, Any]) -> None:
    """Whole numbers stay whole, "auto" stays "auto"."""
    assert same(Hyperparameters.from_json(content).to_json(), content)


def test_hyperparameters_of_a_request_are_read_and_written_back() -> None:
    """With an optimizer, its pairs and its groups."""
    optimizer = {"name": "adafactor", "eps": [1e-30, 1e-3], "groups": [{"select": {"name": "x"}, "options": {"lr": 1}}]}
    asked = requests.HyperparametersRequest.model_validate({"n_epochs": 2, "warmup_steps": 3, "optimizer": optimizer})
    stored = asked.model_dump(exclude_none=True)
    assert same(Hyperparameters.from_json(stored).to_json(), stored)


def test_null_is_absent() -> None:
    """Clients of OpenAI's API send null for what they leave out."""
    assert Hyperparameters.from_json({"max_steps": None}) == Hyperparameters()
    assert Hyperparameters.from_json({"optimizer": "sgd"}).optimizer == OptimizerSpec(name="sgd")


@pytest.mark.parametrize(
    ("content", "param", "says"),
    [
        ({"n_epochs": 0}, "n_epochs", "'auto' or a whole number of at least 1"),
        ({"learning_rate": float("inf")}, "learning_rate", "a finite number of at least 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio", "between 0 and 1"),
        ({"packing": 1}, "packing", "true or false"),
        ({"optimizer": {"name": "adamq"}}, "optimizer.name", "did you mean 'adam'?"),
        ({"optimizer": {"groups": [{"options": {}}]}}, "optimizer.groups[0].select", "lacks 'select'"),
    ],
)
def test_hyperparameters_that_cannot_be_read_are_named(content: Any, param: str, says: str) -> None:
    """By their path in a request."""
    with pytest.raises(InvalidRequest) as refused:
        Hyperparameters.from_json(content)
    assert refused.value.param == f"hyperparameters.{param}"
    assert says in refused.value.message
