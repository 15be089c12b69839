"""JSON to specs and back: nothing is lost, added or guessed, and what cannot be read is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.errors import DataError, InvalidRequest, ModelError
from app.jobs.requests import hyperparameters as requests
from app.jobs.requests.model_spec import TorchRequest, TransformersRequest
from app.specs.adapters import LoraSpec
from app.specs.data import DataSpec
from app.specs.evidence import EvidenceSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import TorchSpec, TransformersSpec, read_model
from app.specs.optimizers import OptimizerSpec

NAMES = st.text(min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
LISTS = st.lists(NAMES, max_size=3)


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=values)


ADAPTERS = st.one_of(
    objects(
        r=st.integers(1, 99),
        alpha=st.integers(1, 9) | st.floats(0.1, 9),
        dropout=st.floats(0, 0.9),
        target_modules=LISTS,
        use_rslora=st.booleans(),
        merge=st.booleans(),
        start=NAMES,
    ).map(lambda fields: {"type": "lora", **fields}),
    objects(target_modules=LISTS, feedforward_modules=LISTS, merge=st.booleans()).map(
        lambda fields: {"type": "ia3", **fields}
    ),
    objects(num_virtual_tokens=st.integers(1, 99)).map(lambda fields: {"type": "prompt_tuning", **fields}),
)
MODELS = st.one_of(
    objects(
        revision=NAMES,
        task=st.sampled_from(["pairs", "causal-lm"]),
        num_labels=st.integers(1, 9),
        dtype=st.sampled_from(["auto", "bfloat16"]),
        adapter=ADAPTERS,
        new_tokens=LISTS,
    ).map(lambda fields: {"type": "transformers", "path": "tiny", **fields}),
    objects(
        kwargs=st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=2), max_size=3),
        weights=NAMES,
        task=st.sampled_from(["regression", "classification"]),
    ).map(lambda fields: {"type": "torch", "architecture": "affine", **fields}),
)
GROUPS = st.lists(
    st.fixed_dictionaries({"select": st.just({"name": ["**"]})}, optional={"options": st.just({"lr": 1})}), max_size=2
)
HYPERPARAMETERS = objects(
    n_epochs=st.just("auto") | st.integers(1, 9),
    learning_rate=st.integers(0, 2) | st.floats(0, 1),
    prefix_cache=st.just("auto") | st.booleans(),
    beta=st.just("auto") | st.floats(0, 1),
    lr_schedule=st.sampled_from(["linear", "cosine"]),
    packing=st.booleans(),
    optimizer=objects(
        groups=GROUPS, betas=st.just([0.9, 0.99]), eps=st.floats(1e-9, 1), weight_decay=st.integers(0, 1)
    ).map(lambda fields: {"name": "adamw", **fields}),
)
DATA = objects(features=LISTS, target=NAMES | LISTS, format=NAMES, training=NAMES, validation=NAMES)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON text: 1 is not 1.0, and true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(MODELS)
def test_a_model_comes_back_as_it_was(content: dict[str, Any]) -> None:
    """An absent field stays absent: the identity of a checkpoint is a digest of this JSON."""
    spec = read_model(content)
    assert same(spec.to_json(), content)
    assert read_model(json.loads(json.dumps(spec.to_json()))) == spec


@given(HYPERPARAMETERS)
def test_hyperparameters_come_back_as_they_were(content: dict[str, Any]) -> None:
    """Whole numbers stay whole, "auto" stays "auto"."""
    assert same(Hyperparameters.from_json(content).to_json(), content)


@given(DATA)
def test_data_comes_back_as_it_was(content: dict[str, Any]) -> None:
    """One target is a string or a list of one, as it was given."""
    assert same(DataSpec.from_json(content).to_json(), content)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "transformers", "path": "tiny"},
        {"type": "transformers", "path": "a/b", "revision": "main", "new_tokens": ["<x>"]},
        {"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "target_modules": ["q"]}},
        {"type": "transformers", "path": "tiny", "adapter": {"type": "ia3"}, "task": "causal-lm"},
        {"type": "transformers", "path": "tiny", "adapter": {"type": "prompt_tuning"}},
        {"type": "torch", "architecture": "mlp", "kwargs": {"hidden": [3, 4]}, "weights": "file-1"},
    ],
)
def test_what_a_request_stores_is_read_and_written_back(content: dict[str, Any]) -> None:
    """Rows hold what the request's class writes, with its defaults filled in."""
    adapter: TypeAdapter[Any] = TypeAdapter(TransformersRequest | TorchRequest)
    stored = adapter.validate_python(content).model_dump(exclude_none=True)
    assert same(read_model(stored).to_json(), stored)


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


def test_defaults_of_evidence() -> None:
    """A budget of nothing is one, and not the default."""
    assert EvidenceSpec().budget == 0.01
    assert EvidenceSpec.from_json({"overhead_budget": 0}).budget == 0


@pytest.mark.parametrize(
    ("content", "param", "says"),
    [
        ({"type": "tensorflow"}, "model.type", "transformers, torch"),
        ({}, "model.type", "torch"),
        ([], "model.type", "torch"),
        ({"type": "torch"}, "model.architecture", "lacks 'architecture'"),
        ({"type": "torch", "architecture": 3}, "model.architecture", "a string"),
        ({"type": "torch", "architecture": "affine", "kwarg": {}}, "model.kwarg", "did you mean 'kwargs'?"),
        ({"type": "torch", "architecture": "affine", "kwargs": []}, "model.kwargs", "an object"),
        ({"type": "transformers", "path": "x", "task": "causal"}, "model.task", "did you mean 'causal-lm'?"),
        ({"type": "transformers", "path": "x", "num_labels": True}, "model.num_labels", "a whole number of at least 1"),
        ({"type": "transformers", "path": "x", "adapter": 3}, "model.adapter.type", "lora, ia3, prompt_tuning"),
        ({"type": "transformers", "path": "x", "adapter": {"type": "ia3", "r": 1}}, "model.adapter.r", "no 'r'"),
        ({"type": "transformers", "path": "x", "new_tokens": ["a", 3]}, "model.new_tokens[1]", "a string"),
        ({"type": "transformers", "path": "x", "new_tokens": "a"}, "model.new_tokens", "a list of strings"),
    ],
)
def test_models_that_cannot_be_read_are_named(content: Any, param: str, says: str) -> None:
    """The field and what would be right."""
    with pytest.raises(ModelError) as refused:
        read_model(content)
    assert refused.value.param == param
    assert says in refused.value.message


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


def test_data_that_cannot_be_read_is_named() -> None:
    """Each kind of spec has the error of its kind."""
    with pytest.raises(DataError, match="must be a string or a list of strings"):
        DataSpec.from_json({"target": 3})


def test_a_spec_says_what_it_is() -> None:
    """Of a hub, changed by an adapter or new tokens; columns as a reader of tables takes them."""
    assert TransformersSpec(path="owner/name").of_hub
    assert not TransformersSpec(path="tiny").of_hub
    assert TransformersSpec(path="tiny").as_registered
    assert not TransformersSpec(path="tiny", adapter=LoraSpec()).as_registered
    assert not TransformersSpec(path="tiny", new_tokens=("<x>",)).as_registered
    assert (TorchSpec(architecture="affine").adapter, TorchSpec(architecture="affine").of_hub) == (None, False)
    assert [DataSpec(target=each).targets for each in (None, "y", ("a", "b"))] == [(), ("y",), ("a", "b")]
