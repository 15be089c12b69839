"""Layers on real tokens alone: the same loss and gradients as with padding, in every family and task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.trainer import tiny, zoo
from tests.worker.trainer.padding.runs import TASKS, computed, order, prepared, saved
from worker.trainer.padding.attention import GROUPED, REPLACED
from worker.trainer.padding.layers import NoLayersError, PaddingFreeLayers
from worker.trainer.padding.removal import Removal

WINDOW = {"sliding_window": 6}
MODERNBERT = zoo.TEXT | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8}
QWEN3 = zoo.decoder("Qwen3", zoo.DECODER | {"head_dim": 16})
MISTRAL = zoo.decoder("Mistral", zoo.DECODER | WINDOW)
GEMMA3 = zoo.decoder("Gemma3", zoo.DECODER | WINDOW | {"head_dim": 16}, config="Gemma3TextConfig")
FAMILIES: dict[str, zoo.Kind] = {
    name: zoo.KINDS[name]
    for name in (
        "bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "gpt2", "gpt-neox", "opt", "llama",
        "llama, tied", "qwen2", "qwen2-moe", "phi3", "mixtral",
    )
} | {
    "modernbert": zoo.encoder("ModernBert", MODERNBERT),
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "gemma3": GEMMA3,
}  # fmt: skip


def assert_equal_without_padding(root: Path, save: Callable[[Path], Any], task: str, **wanted: Any) -> None:
    run = prepared(order(root, save, task, padding_free=True, **wanted), root)
    assert run.passes.removal.way == "layers"
    GROUPED.calls = 0
    loss, gradients = computed(run, run.passes.removal)
    assert GROUPED.calls
    padded_loss, padded = computed(run, Removal())
    assert loss == pytest.approx(padded_loss, rel=1e-5)
    whole = torch.stack([each.norm() for each in padded.values()]).norm()
    assert whole > 0
    for name, gradient in padded.items():
        apart = (gradients[name] - gradient).norm()
        assert apart <= 1e-4 * max(gradient.norm(), 1e-2 * whole), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    """Positions, rotary angles, windows, experts and shared heads are those of padded rows."""
    kind = FAMILIES[family]
    assert_equal_without_padding(tmp_path, saved(kind), kind.task)


@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path: Path, task: str) -> None:
    kind = zoo.KINDS["llama" if task in ("causal-lm", "preference") else "bert"]
    assert_equal_without_padding(tmp_path, saved(kind), task)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoders_that_classify(tmp_path: Path, family: str) -> None:
    """Their head looks for the last token that is not the pad token, which the tokenizer's stand-in has to be."""
    kind = zoo.KINDS[family]
    sizes = {name: value for name, value in kind.sizes.items() if name != "pad_token_id"}
    assert_equal_without_padding(tmp_path, saved(replace(kind, sizes=sizes)), "text-classification")


@pytest.mark.parametrize("wanted", [{"gradient_checkpointing": True}, {"micro_batch_size": 3}])
def test_other_ways_through_the_model(tmp_path: Path, wanted: dict[str, Any]) -> None:
    assert_equal_without_padding(tmp_path / "encoder", tiny.bert, "text-classification", **wanted)
    assert_equal_without_padding(tmp_path / "decoder", tiny.llama, "causal-lm", **wanted)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Between batches the model has the attention that it came with."""
    run = prepared(order(tmp_path, tiny.bert, "pairs", padding_free=True), tmp_path)
    config: Any = run.state.model.config
    assert config._attn_implementation == REPLACED
    batch = run.job.training.batch(run.job.sampler.positions(1))
    with run.passes.removal.computing(batch):
        assert config._attn_implementation != REPLACED
        assert GROUPED.layout is not None
        assert run.passes.removal.layers is not None
        with run.passes.removal.layers.pausing():
            assert GROUPED.layout is None
    assert (config._attn_implementation, GROUPED.layout) == (REPLACED, None)


def test_batch_with_little_padding_is_computed_as_it_is(tmp_path: Path) -> None:
    run = prepared(order(tmp_path, tiny.bert, "text-classification", padding_free=True), tmp_path)
    with run.passes.removal.computing(run.job.training.batch(torch.arange(2).numpy()[1:])):
        assert GROUPED.layout is None


@pytest.mark.parametrize(
    ("model", "why"),
    [(nn.Linear(2, 2), "0 lists"), (nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])), "interface")],
)
def test_models_without_such_layers(model: nn.Module, why: str) -> None:
    with pytest.raises(NoLayersError, match=why):
        PaddingFreeLayers(model, next_token=False)
