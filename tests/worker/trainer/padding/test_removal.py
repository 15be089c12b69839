"""Micro-batches of similar length: for models whose attention needs padded rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.trainer import tiny, zoo
from tests.worker.trainer.padding.runs import TASKS, computed, order, prepared, saved
from worker.trainer.padding import removal as ways
from worker.trainer.padding.removal import Removal

T5 = zoo.Kind(
    "T5ForTokenClassification",
    "T5Config",
    {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "pad_token_id": 0},
    "token-classification",
)
FAMILIES = {"deberta-v2": zoo.KINDS["deberta-v2"], "mpnet": zoo.KINDS["mpnet"], "t5": T5, "bloom": zoo.KINDS["bloom"]}


@pytest.fixture(autouse=True)
def tiny_passes_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ways.FIXED, "cpu", 4)


def assert_equal_in_micro_batches(root: Path, kind: zoo.Kind, task: str) -> None:
    run = prepared(order(root, saved(kind), task, padding_free=True), root)
    removal = run.passes.removal
    assert removal.way == "micro_batches"
    loss, gradients = computed(run, removal)
    padded_loss, padded = computed(run, Removal())
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    whole = torch.stack([each.norm() for each in padded.values()]).norm()
    for name, gradient in padded.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * max(gradient.norm(), 1e-2 * whole), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    """Relative positions and biases of their own."""
    assert_equal_in_micro_batches(tmp_path, FAMILIES[family], FAMILIES[family].task)


@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path: Path, task: str) -> None:
    """A loss over pairs needs all vectors at once; the others add up."""
    kind = zoo.KINDS["bloom" if task in ("causal-lm", "preference") else "mpnet"]
    assert_equal_in_micro_batches(tmp_path, kind, task)


def test_pieces_hold_each_example_once_and_neighbours_in_length(tmp_path: Path) -> None:
    run = prepared(order(tmp_path, zoo.KINDS["mpnet"].save, "text-classification", padding_free=True), tmp_path)
    positions = run.job.sampler.positions(1)
    pieces = run.passes.removal.pieces(positions, run.job.training)
    assert len(pieces) > 1
    assert sorted(np.concatenate(pieces)) == sorted(positions)
    lengths = run.job.training.lengths
    assert lengths is not None
    edges = [(lengths[piece].min(), lengths[piece].max()) for piece in pieces]
    assert all(one[1] <= other[0] for one, other in pairwise(edges))


def test_padding_that_is_kept_leaves_batches_as_they_are(tmp_path: Path) -> None:
    run = prepared(order(tmp_path, tiny.bert, "pairs", padding_free=False), tmp_path)
    positions = run.job.sampler.positions(1)
    assert run.passes.removal == Removal()
    assert run.passes.removal.pieces(positions, run.job.training) == [positions]
    batch = run.job.training.batch(positions)
    with run.passes.removal.computing(batch) as given:
        assert given is batch
