"""Modules that are frozen as a whole act as fixed functions; everything else keeps its dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from app.freeze.plan import resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.apply import Frozen, freeze
from worker.trainer.freeze.fixed import fixed_modules, sentence
from worker.trainer.freeze.inventory import tensors


def bert() -> nn.Module:
    sizes: dict[str, Any] = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**sizes, num_hidden_layers=2))


def applied(model: nn.Module, policy: dict[str, Any], *, dropout: bool = False) -> Frozen:
    return freeze(model, resolve(Policy.from_json(policy), tensors(model)), dropout=dropout)


def in_training(model: nn.Module) -> set[str]:
    model.train()
    return {path for path, module in model.named_modules() if module.training}


def test_dropout_is_off_inside_and_on_outside() -> None:
    """After `train()`, too: layer 0 gives the same twice, layer 1 does not, and the head's dropout is on."""
    model = bert()
    frozen = applied(
        model, {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**", "bert.encoder.layer.1.output.**"]}
    )
    training = in_training(model)
    assert frozen.fixed == [
        model.get_submodule(path) for path in ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1.output")
    ]
    assert {"", "bert", "bert.encoder", "bert.encoder.layer.1", "dropout", "classifier"} <= training
    assert not any(path.startswith(("bert.embeddings", "bert.encoder.layer.0")) for path in training)
    assert "bert.encoder.layer.1.output.dropout" not in training
    x = torch.rand(2, 3, 8)
    layers = [model.get_submodule(f"bert.encoder.layer.{at}") for at in (0, 1)]
    same = [torch.equal(layer(x), layer(x)) for layer in layers]
    assert same == [True, False]


@pytest.mark.parametrize(
    ("policy", "dropout"),
    [({"freeze": ["bert.**"]}, True), ({"freeze": ["bert.**"], "enforce": False}, False)],
    ids=["asked for", "an audit"],
)
def test_where_nothing_is_fixed(policy: dict[str, Any], dropout: bool) -> None:
    """As the job asks for dropout, and in an audit, which applies nothing."""
    model = bert()
    assert applied(model, policy, dropout=dropout).fixed == []
    assert "bert.encoder.layer.0.output.dropout" in in_training(model)


def test_a_freeze_that_ends_is_not_for_good() -> None:
    """What trains later is trained with its dropout from the start."""
    model = bert()
    rule = {"id": "while", "action": "freeze", "select": {"name": "bert.**"}, "when": [{"from_step": 0, "to_step": 3}]}
    assert applied(model, {"default": "train", "rules": [rule]}).fixed == []


def test_statistics_that_may_move_go_on_moving() -> None:
    """A BatchNorm under "track" keeps its mode, and what is beside it is fixed."""
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 2))
    frozen = applied(model, {"freeze": ["0.**"], "buffers": "track"})
    assert frozen.fixed == [model[0][0]]
    model.train()
    model(torch.rand(4, 2))
    assert model[0][1].num_batches_tracked == 1


def test_a_module_of_frozen_tensors_alone() -> None:
    """The largest ones, each once; a module without parameters of its own is none."""
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Dropout(), shared, nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert fixed_modules(model, shared.parameters()) == [shared]
    assert fixed_modules(model, [*shared.parameters(), *model[3].parameters()]) == [model]


def test_layers_that_recompute_keep_doing_so() -> None:
    """Gradients may pass through a frozen layer to what trains before it; recomputation is for training mode only."""
    model = bert()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    applied(model, {"train": ["bert.embeddings.**", "classifier.**"]})
    training = in_training(model)
    assert {"bert.encoder.layer.0", "bert.encoder.layer.1"} <= training
    assert not any("layer.0.attention" in path for path in training)
    assert not model.eval().get_submodule("bert.encoder.layer.0").training


def test_removed_with_the_freeze() -> None:
    """The plain model is back, which trains as it was built, and behaves as before when the freeze returns."""
    model = bert()
    frozen = applied(model, {"freeze": ["bert.**"]})
    with frozen.removed():
        assert type(model.bert) is BertModel
    model.train()
    assert not model.bert.training


def test_the_choice_in_a_line(tmp_path: Path) -> None:
    """With its reason."""
    assert sentence(frozen_dropout=False).endswith("is off: what is frozen acts as a fixed function")
    assert sentence(frozen_dropout=True).endswith("(frozen_dropout)")
