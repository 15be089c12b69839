"""Muon for hidden matrices, AdamW for the rest: which is which, the same steps as torch's, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from app.errors import InvalidRequest
from app.specs.adapters import LoraSpec
from app.specs.optimizers import OptimizerSpec
from tests.worker.trainer import tiny
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import adapters
from worker.trainer.training.muon import Muon, outer
from worker.trainer.training.optimizer import build


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def made(model: nn.Module, **wanted: Any) -> Muon:
    built = build(
        OptimizerSpec.from_json({"name": "muon", **wanted}),
        list(model.named_parameters()),
        learning_rate=0.1,
        inventory=tensors(model),
        enforce=True,
        outer=outer(model),
    )
    assert isinstance(built, Muon)
    return built


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
    optimizer.step()


def by_muon(model: nn.Module, optimizer: Muon) -> set[str]:
    chosen = {id(each) for group in optimizer.param_groups if group["muon"] for each in group["params"]}
    return {name for name, each in model.named_parameters() if id(each) in chosen}


def test_hidden_matrices_of_a_plain_model() -> None:
    """All but the output layer; vectors never."""
    model = mlp()
    assert by_muon(model, made(model)) == {"0.weight", "2.weight"}


def test_hidden_matrices_of_a_decoder(tmp_path: Path) -> None:
    """The projections of its layers: not the embedding, which is also the output layer, and not a head of its own."""
    for tied in (True, False):
        model = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path / str(tied), tie_word_embeddings=tied))
        chosen = by_muon(model, made(model))
        assert len(chosen) == 2 * 7
        assert all("_proj." in name for name in chosen)


def test_hidden_matrices_of_a_classifier(tmp_path: Path) -> None:
    """A head is not hidden, whether it is new or not."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny.bert(tmp_path))
    chosen = by_muon(model, made(model))
    assert "classifier.weight" not in chosen
    assert not any("embeddings" in name for name in chosen)
    assert "bert.encoder.layer.0.attention.self.query.weight" in chosen


def test_adapter_matrices_are_hidden(tmp_path: Path) -> None:
    """Low-rank factors lie inside the base model, under names of peft's."""
    whole = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path))
    model = adapters.wrap(whole, LoraSpec(r=2, target_modules=("q_proj",)), task="causal-lm", seed=0)
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    wanted = OptimizerSpec(name="muon")
    built = build(wanted, named, learning_rate=0.1, inventory=tensors(model), enforce=True, outer=outer(model))
    assert by_muon(model, built) == {name for name, _ in named}  # type: ignore[arg-type]


def test_steps_are_torch_s() -> None:
    """The same bits as torch's Muon and AdamW side by side, each over its own."""
    ours, theirs = mlp(), mlp()
    optimizer = made(ours, weight_decay=0.1, momentum=0.9, betas=[0.8, 0.9])
    hidden = [theirs[0].weight, theirs[2].weight]
    rest = [each for each in theirs.parameters() if not any(each is matrix for matrix in hidden)]
    groups = [{"params": [each for each in rest if each.ndim == 2], "weight_decay": 0.1}]
    groups += [{"params": [each for each in rest if each.ndim < 2], "weight_decay": 0.0}]
    muon = torch.optim.Muon(hidden, lr=0.1, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9), fused=True)
    for _ in range(3):
        step(ours, optimizer)
        muon.zero_grad()
        step(theirs, adamw)
        muon.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_state_goes_through_a_file() -> None:
    """Saved, loaded into a new one and gone on with: the same bits as without."""
    ours, theirs = mlp(), mlp()
    optimizer, first = made(ours), made(theirs)
    for _ in range(2):
        step(ours, optimizer)
        step(theirs, first)
    second = made(theirs)
    second.load_state_dict(first.state_dict())
    for built, model in ((optimizer, ours), (second, theirs)):
        for group in built.param_groups:
            group["lr"] = 0.05  # as a schedule does, also after a resume
        step(model, built)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_gradient_no_write() -> None:
    """Weight decay and momentum leave a parameter alone that got no gradient."""
    model = mlp()
    optimizer = made(model, weight_decay=0.5)
    step(model, optimizer)
    before = [each.detach().clone() for each in model.parameters()]
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_closure_is_called_once() -> None:
    """As torch's optimizers do."""
    model = mlp()
    optimizer = made(model)
    assert optimizer.step(lambda: 3.0) == 3.0


def test_groups_are_divided_with_the_options_of_each_kind() -> None:
    """A group of both kinds gives two; each has the options that it knows."""
    model = mlp()
    groups = [{"select": {"module": "0"}, "options": {"lr": 0.5, "momentum": 0.8, "betas": [0.5, 0.9]}}]
    built = made(model, groups=groups).param_groups
    assert [(group["muon"], group["lr"]) for group in built] == [(True, 0.5), (False, 0.5), (True, 0.1), (False, 0.1)]
    assert built[0]["momentum"] == 0.8
    assert built[1]["betas"] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("select", "options", "param"),
    [
        ("0.weight", {"betas": [0.5, 0.9]}, "groups[0].options.betas"),
        ("*.bias", {"momentum": 0.5}, "groups[0].options.momentum"),
    ],
)
def test_option_of_the_other_kind_is_refused(select: str, options: dict[str, Any], param: str) -> None:
    """It would be ignored."""
    with pytest.raises(InvalidRequest, match="would be ignored") as refused:
        made(mlp(), groups=[{"select": {"name": select}, "options": options}])
    assert refused.value.param == f"hyperparameters.optimizer.{param}"


def test_without_a_hidden_matrix_it_is_refused() -> None:
    """AdamW by another name is not what was asked for."""
    with pytest.raises(InvalidRequest, match="use 'adamw'"):
        made(nn.Sequential(nn.Linear(3, 4)))
