"""Files that are not all of a model: refused, and never filled up by chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import ModelError
from app.freeze.policy import Policy
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny, zoo
from worker.trainer.models import loading
from worker.trainer.models.completeness import INDEX
from worker.trainer.models.tracked import TrackedModel

Change = Callable[[dict[str, Any]], None]


def load(folder: Path) -> loading.Loaded:
    return loading.load(TransformersSpec(path="tiny"), folder, task="text-classification", labels=("a", "b"), seed=0)


def with_tensors(folder: Path, change: Change) -> Path:
    path = tiny.bert(folder) / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_a_missing_tensor_of_the_body_is_named(tmp_path: Path) -> None:
    """A layer without one of its tensors would have been filled with noise, and frozen so."""
    name = "encoder.layer.1.output.dense.bias"
    with pytest.raises(ModelError, match=name) as refused:
        load(with_tensors(tmp_path, lambda weights: weights.pop(name)))
    assert refused.value.code == "missing_tensors"


def test_more_layers_than_the_files_have(tmp_path: Path) -> None:
    """config.json is of another model, of more layers."""
    config = tiny.bert(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"layer\.2\..*and 11 more"):
        load(tmp_path)


def test_a_head_and_a_pooler_may_be_new(tmp_path: Path) -> None:
    """What is missing as a whole is drawn from the seed; what is there besides is left out. Both are said."""

    def change(weights: dict[str, Any]) -> None:
        weights["strange.weight"] = weights.pop("pooler.dense.weight")
        del weights["pooler.dense.bias"]

    loaded = load(with_tensors(tmp_path, change))
    assert {name for name in loaded.new if "pooler" in name} == {
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
    }
    tracked = TrackedModel.of(loaded)
    tracked.read_loaded(tracked.plan(Policy.from_json({"default": "train", "rules": []})))
    assert tracked.left_out() == ["strange.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"metadata": {}, "weight_map": {"x": "../other.safetensors"}}, "no safetensors file beside it"),
        ({"metadata": {}, "weight_map": {"x": "model-00009-of-00009.safetensors"}}, "is not there"),
        ({"weight_map": ["x"]}, "no weight_map"),
        ([1], "no weight_map"),
        (None, "neither model.safetensors nor"),
    ],
)
def test_an_index_names_files_beside_it(tmp_path: Path, content: Any, message: str) -> None:
    """Of numbered shards, each has to be there; a path leads nowhere else."""
    folder = tiny.bert(tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    if content is not None:
        (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message) as refused:
        load(folder)
    assert str(folder) not in refused.value.message


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod."),
        (lambda name: f"module.{name}", "module."),
        (lambda name: f"module._orig_mod.{name}", "_orig_mod."),
        (lambda name: f"_fsdp_wrapped_module.{name}", "_fsdp_wrapped_module."),
        (lambda name: f"base_model.model.{name}", "base_model.model."),
        (lambda name: f"bert._orig_mod.{name}", "_orig_mod."),
        (lambda name: name.replace("encoder.", "encoder._orig_mod."), "_orig_mod."),
        (lambda name: name.replace("dense.", "dense._checkpoint_wrapped_module."), "_checkpoint_wrapped_module."),
        (lambda name: f"my.own.{name}", "my.own."),
    ],
    ids=["compiled", "replicas", "both", "fsdp", "peft", "inside", "encoder", "checkpointed", "unknown"],
)
def test_names_of_a_wrapped_model_are_refused(tmp_path: Path, wrap: Callable[[str], str], prefix: str) -> None:
    """The prefix is named. Read as they are, the whole model, or a part of it, would be drawn at random and frozen."""
    path = tiny.bert(tmp_path) / "model.safetensors"
    weights = {wrap(name): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError) as refused:
        load(tmp_path)
    assert refused.value.code == "missing_tensors"
    assert f"the prefix '{prefix}'" in refused.value.message


def test_a_head_of_a_wrapped_model_is_not_new(tmp_path: Path) -> None:
    """A trained head under a wrapper's name would be replaced by a random one."""
    path = zoo.KINDS["bert for masked words"].save(tmp_path) / "model.safetensors"
    weights = load_file(path) | {
        "classifier._orig_mod.weight": torch.ones(2, 32),
        "classifier._orig_mod.bias": torch.ones(2),
    }
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"classifier\._orig_mod\.bias"):
        load(tmp_path)


def test_a_file_without_any_of_the_body_is_refused(tmp_path: Path) -> None:
    """Completeness is not judged by what is there: nothing would be complete."""
    path = tiny.bert(tmp_path) / "model.safetensors"
    save_file({"something.else": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="they lack") as refused:
        load(tmp_path)
    assert refused.value.code == "missing_tensors"


@pytest.mark.parametrize("part", ["encoder.layer", "embeddings.word_embeddings"])
def test_layers_and_embeddings_are_never_new(tmp_path: Path, part: str) -> None:
    """Also where all of a kind are missing, so that nothing beside them is there."""

    def without(weights: dict[str, Any]) -> None:
        for name in [name for name in weights if name.startswith(part)]:
            weights.pop(name)

    with pytest.raises(ModelError, match=part.rpartition(".")[2]):
        load(with_tensors(tmp_path, without))
