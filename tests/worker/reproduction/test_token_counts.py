"""Tokens of training examples, as a run counts them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.evidence.format.statement import FileRef
from app.evidence.verifier.context import CannotCheck
from app.specs.hyperparameters import Hyperparameters
from tests.tamper import recipes
from tests.tamper.kit import World
from tests.worker.reproduction.attested import ROWS
from tests.worker.trainer import tiny
from worker.reproduction.material import Material
from worker.reproduction.token_counts import token_counts


def test_each_example_is_counted(tmp_path: Path) -> None:
    """With the marks that the tokenizer adds, and cut where the run cut them."""
    world = World(tmp_path / "world")
    world.sign()
    base = tiny.bert(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row | {"text": "the cat sat " * at}) + "\n" for at, row in enumerate(ROWS, 1)))
    files = tuple(FileRef(path.name, path.stat().st_size, _digest(path)) for path in base.iterdir())
    recipe = recipes.honest(world)
    recipe = recipe._replace(request=recipe.request._replace(model={"type": "transformers", "path": "tiny"}))
    material = Material(training=data, validation=None, base=base, adapter=None, checkpoint=None)
    found = token_counts(recipe, Hyperparameters(max_length=20), material, base_files=files)
    assert found.tolist() == [min(20, 3 * at + 2) for at in range(1, len(ROWS) + 1)]


def test_what_has_no_tokens_is_named(tmp_path: Path) -> None:
    """A signer may say length_bucketing of a table."""
    world = World(tmp_path / "world")
    world.sign()
    (tmp_path / "base").mkdir()
    save_file({"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}, tmp_path / "base" / "model.safetensors")
    data = tmp_path / "data.jsonl"
    data.write_text('{"x": [1.0], "y": 2.0}\n{"x": [3.0], "y": 4.0}\n')
    model = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 1, "out_features": 1}}
    recipe = recipes.honest(world)
    recipe = recipe._replace(request=recipe.request._replace(model=model, task="tabular-regression"))
    material = Material(training=data, validation=None, base=tmp_path / "base", adapter=None, checkpoint=None)
    with pytest.raises(CannotCheck, match="examples that have no tokens"):
        token_counts(recipe, Hyperparameters(), material, base_files=(FileRef("model.safetensors", 1, "00" * 32),))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
