"""Specs of models: read, written back, and refused by the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.errors import ModelError
from app.jobs.requests.model_spec import TorchRequest, TransformersRequest
from app.specs.adapters import LoraSpec
from app.specs.models import TorchSpec, TransformersSpec, adapter_start, folder_name, read_model, without_weights
from tests.app.specs.contents import LISTS, NAMES, SCALARS, objects, same

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


@given(MODELS)
def test_a_model_comes_back_as_it_was(content: dict[str, Any]) -> None:
    """An absent field stays absent: the identity of a checkpoint is a digest of this JSON."""
    spec = read_model(content)
    assert same(spec.to_json(), content)
    assert read_model(json.loads(json.dumps(spec.to_json()))) == spec


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


def test_a_spec_says_what_it_is() -> None:
    """Of a hub, changed by an adapter or new tokens; columns as a reader of tables takes them."""
    assert TransformersSpec(path="owner/name").of_hub
    assert not TransformersSpec(path="tiny").of_hub
    assert TransformersSpec(path="tiny").as_registered
    assert not TransformersSpec(path="tiny", adapter=LoraSpec()).as_registered
    assert not TransformersSpec(path="tiny", new_tokens=("<x>",)).as_registered
    assert (TorchSpec(architecture="affine").adapter, TorchSpec(architecture="affine").of_hub) == (None, False)


def test_what_only_the_base_says_is_added() -> None:
    """A job's own fields go before those of the registered model."""
    base = TransformersSpec(path="tiny", task="causal-lm", dtype="bfloat16")
    assert TransformersSpec(path="tiny", task="pairs").over(base) == TransformersSpec(
        path="tiny", task="pairs", dtype="bfloat16"
    )


def test_questions_about_both_kinds() -> None:
    """A folder, weights and the start of an adapter: of a torch spec, of a transformers spec."""
    torch, folder = (
        TorchSpec(architecture="mlp", weights="file-1"),
        TransformersSpec(path="tiny", adapter=LoraSpec(start="ft:1")),
    )
    assert without_weights(torch) == TorchSpec(architecture="mlp") and without_weights(folder) is folder
    assert (adapter_start(torch), adapter_start(folder)) == (None, "ft:1")
    assert folder_name(folder) == "tiny"
    with pytest.raises(ModelError, match="architecture 'mlp' has no model folder"):
        folder_name(torch)
