"""What is said of a model without its weights, beside the model that is loaded with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from app.errors import ModelError
from app.freeze.plan import TensorInfo
from app.specs.models import TorchSpec, TransformersSpec
from tests.worker.trainer import tiny
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, manifest

SPEC = TransformersSpec(path="tiny")
Make = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "task"),
    [
        (tiny.bert, "text-classification"),
        (tiny.bert, "token-classification"),
        (tiny.bert, "pairs"),
        (tiny.llama, "causal-lm"),
        (tiny.vit, "image-classification"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_manifest_is_the_loaded_model(tmp_path: Path, make: Make, task: str) -> None:
    """Names, ties, shapes, dtypes, buffers (also those that no file holds), and what is new, are those of training."""
    make(tmp_path)
    rows = _rows(manifest.describe(SPEC, tmp_path, task=None), task)
    loaded = loading.load(SPEC, tmp_path, task=task, labels=None, seed=0)
    assert [TensorInfo.from_json(row) for row in rows] == tensors(loaded.model)
    assert {row["name"] for row in rows if row.get("initialised")} == loaded.new
    assert any(not row.get("persistent", True) for row in rows) == any(
        not each.persistent for each in tensors(loaded.model)
    )


def test_dtype_is_that_of_the_files(tmp_path: Path) -> None:
    """A base that is stored in bfloat16 is trained so, whatever config.json says."""
    path = tiny.bert(tmp_path) / "model.safetensors"
    save_file({name: each.bfloat16() for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    rows = _rows(manifest.describe(SPEC, tmp_path, task=None), "text-classification")
    assert {row["dtype"] for row in rows if row.get("kind") != "buffer"} == {"BF16"}


def test_head_is_marked(tmp_path: Path) -> None:
    """A base without a head: the head's tensors are new, and have a row per class. A base with one: not new."""
    tiny.bert(tmp_path / "bert")
    tiny.vit(tmp_path / "vit")
    encoder = _rows(manifest.describe(SPEC, tmp_path / "bert", task=None), "text-classification")
    assert {row["name"] for row in encoder if row.get("labels")} == {"classifier.weight", "classifier.bias"}
    assert {"classifier.weight", "classifier.bias"} <= {row["name"] for row in encoder if row.get("initialised")}
    images = _rows(manifest.describe(SPEC, tmp_path / "vit", task=None), "image-classification")
    assert {row["name"] for row in images if row.get("labels")} == {"classifier.weight", "classifier.bias"}
    assert not any(row.get("initialised") for row in images)


def test_tasks_of_a_model(tmp_path: Path) -> None:
    """Those that fit its architecture; the model's own is the class in config.json or the task that was asked for."""
    tiny.bert(tmp_path / "bert")
    tiny.vit(tmp_path / "vit")
    described = manifest.describe(SPEC, tmp_path / "bert", task=None)
    assert isinstance(described, dict)
    assert {"text-classification", "text-regression", "token-classification", "pairs", "causal-lm"} < set(described)
    assert described[manifest.OWN] == "pairs"
    assert "image-classification" not in described
    assert "causal-lm" not in manifest.describe(SPEC, tmp_path / "vit", task=None)
    asked = manifest.describe(SPEC, tmp_path / "bert", task="text-classification")
    assert isinstance(asked, dict)
    assert asked[manifest.OWN] == "text-classification"
    with pytest.raises(ModelError):
        manifest.describe(SPEC, tmp_path / "bert", task="image-classification")


def test_torch_model_has_one_list() -> None:
    """Its architecture is all that there is to know, and it has no new tensors: its base is written first."""
    spec = TorchSpec(architecture="mlp", kwargs={"in_features": 2, "out_features": 1})
    rows = manifest.describe(spec, Path(), task=None)
    assert [TensorInfo.from_json(row) for row in rows if isinstance(row, dict)] == tensors(loading.skeleton(spec))


def _rows(found: Any, task: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = found[task]
    return rows
