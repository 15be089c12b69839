"""Ties of a model that is described without its weights, beside those of the loaded one."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.freeze.plan import TensorInfo
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, manifest

SPEC = TransformersSpec(path="tiny")


@pytest.mark.parametrize("stored", ["once", "twice", "by the other name", "with other values"])
def test_ties_are_those_of_the_loaded_model(tmp_path: Path, stored: str) -> None:
    """Qwen3's files have both names; transformers ties them where their values are equal."""
    path = tiny.llama(tmp_path) / "model.safetensors"
    weights = load_file(path)
    embeddings = weights["model.embed_tokens.weight"]
    if stored != "once":
        weights["lm_head.weight"] = embeddings + (1 if stored == "with other values" else 0)
    if stored == "by the other name":
        del weights["model.embed_tokens.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    described = manifest.describe(SPEC, tmp_path, task="causal-lm")
    assert isinstance(described, dict)
    rows = described["causal-lm"]
    assert not isinstance(rows, str)
    live = tensors(loading.load(SPEC, tmp_path, task="causal-lm", labels=None, seed=0).model)
    assert [TensorInfo.from_json(row) for row in rows] == live
    assert any(each.aliases for each in live) == (stored != "with other values")
