"""Folders that are not quite a model: each is refused by name, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import ModelError
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import attempt, data, work_order
from worker.protocol import Workspace
from worker.trainer.models import loading, manifest
from worker.trainer.models.completeness import INDEX
from worker.trainer.models.pointers import START

SPEC = TransformersSpec(path="tiny")


def refusal(folder: Path) -> ModelError:
    """What both the trainer and the listing of a base's tensors say."""
    with pytest.raises(ModelError) as loaded:
        loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0)
    with pytest.raises(ModelError):
        manifest.describe(SPEC, folder, task="causal-lm")
    return loaded.value


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, name: str) -> None:
    """Not "a header of 2336927755350992246 bytes"."""
    tiny.llama(tmp_path)
    (tmp_path / name).write_bytes(START + b"v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n")
    error = refusal(tmp_path)
    assert error.code == "lfs_pointer"
    assert f"{name} is a Git LFS pointer" in error.message
    assert "git lfs pull" in error.message


def test_an_adapter_beside_a_model_is_named(tmp_path: Path) -> None:
    """transformers would add it to the model by itself."""
    tiny.llama(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    error = refusal(tmp_path)
    assert (error.code, "adapter_config.json" in error.message) == ("two_models", True)


def test_the_own_form_of_mistral_beside_a_model_is_named(tmp_path: Path) -> None:
    """The same weights under other names: vLLM would open that file, and transformers the others."""
    sharded(tmp_path, metadata={})
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    error = refusal(tmp_path)
    assert (error.code, "consolidated.safetensors" in error.message) == ("two_models", True)


def sharded(folder: Path, **index: object) -> Path:
    path = tiny.llama(folder) / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    save_file(weights, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    names = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names} | index))
    return folder


def test_an_index_without_metadata_says_the_cure(tmp_path: Path) -> None:
    """transformers' own word for it is 'metadata'."""
    error = refusal(sharded(tmp_path / "bad"))
    assert 'has no "metadata"; add' in error.message
    good = sharded(tmp_path / "good", metadata={})
    assert loading.load(SPEC, good, task="causal-lm", labels=None, seed=0).base


def test_two_variants_of_the_weights(tmp_path: Path) -> None:
    """Which one is meant is not guessed."""
    path = tiny.llama(tmp_path) / "model.safetensors"
    halves = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(halves, tmp_path / "model.fp16.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="two variants of the same weights, keep one"):
        loading.load(SPEC, tmp_path, task="causal-lm", labels=None, seed=0)


def test_quantised_weights_without_a_word_in_the_config(tmp_path: Path) -> None:
    """Eight-bit floats would be cast, and scaled wrongly."""
    path = tiny.llama(tmp_path) / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, path, metadata={"format": "pt"})
    error = refusal(tmp_path)
    assert (error.code, name in error.message) == ("quantised_model", True)


def test_whole_numbers_for_weights_are_quantised(tmp_path: Path) -> None:
    """Also without a word in config.json: loaded as they are, they would be weights of up to 127."""
    path = tiny.llama(tmp_path) / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = (weights[name] * 100).to(torch.int8)
    save_file(weights, path, metadata={"format": "pt"})
    error = refusal(tmp_path)
    assert (error.code, f"{name!r} is stored as I8" in error.message) == ("quantised_model", True)


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_weights_that_are_not_finite_are_the_bases_fault(tmp_path: Path, value: str) -> None:
    """The run diverges at its first step, and neither the data nor the learning rate is to blame."""
    place = Workspace(tmp_path).create()
    path = tiny.llama(place.base) / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float(value)
    save_file(weights, path, metadata={"format": "pt"})
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="causal-lm",
        data=data(place, [{"text": "the cat sat"}] * 4),
        hyperparameters={"n_epochs": 1},
        device="cpu",
    )
    done = attempt(order, tmp_path)
    assert (done.failure["code"], done.failure["param"]) == ("nan_in_weights", "model")
    assert "'model.layers.0.mlp.up_proj.weight'" in done.failure["message"]
