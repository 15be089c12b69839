"""The policy for adapters in docs/freeze-policy.md, on models that peft itself has wrapped."""

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from app.errors import PolicyError
from app.freeze.schemas import EXAMPLES
from tests.worker.trainer.freeze.training import plan_for, train
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness.observe import observe

POLICY = EXAMPLES["LoRA over a frozen base"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8, bias=False)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(100, 8)
        self.h = nn.ModuleDict({str(layer): Block() for layer in (0, 1, 10)})


class Gpt(nn.Module):
    """The page's `gpt`: its output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = Body()
        self.lm_head = nn.Linear(8, 100, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer.wte(ids)
        for block in self.transformer.h.children():
            x = torch.tanh(block.get_submodule("mlp")(x))
        out: Tensor = self.lm_head(x)
        return out


def wrapped(**options: Any) -> PeftModel:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of tied weights
        return get_peft_model(Gpt(), LoraConfig(target_modules=["mlp"], r=4, **options))


def loss(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    ids = torch.randint(0, 100, (4, 6))
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def test_names_of_the_page_are_those_of_peft(lora_page: list[Any]) -> None:
    """The model that the page's counts come from has the names and ties that peft gives."""
    real = {each.name: each.aliases for each in tensors(wrapped())}
    assert {each.name: each.aliases for each in lora_page} == real


@pytest.fixture
def lora_page() -> list[Any]:
    from tests.app.freeze import conftest

    fixtures: Any = conftest
    found: list[Any] = fixtures.lora.__wrapped__(fixtures.gpt.__wrapped__())
    return found


@pytest.mark.parametrize("mechanism", ["requires_grad", "detach", "param_group"])
def test_policy_trains_the_adapter_alone(mechanism: str) -> None:
    """Over three steps of AdamW with decay every adapter matrix moves and no bit of the base does."""
    model = wrapped()
    before = observe(model)
    train(model, {**POLICY, "mechanism": mechanism}, loss)
    after = observe(model)
    assert {name for name in after if after[name] != before[name]} == {name for name in after if ".lora_" in name}


def test_every_mechanism_trains_the_same_adapter() -> None:
    """The base's way of being frozen is invisible to the adapter."""
    ends = []
    for mechanism in ("requires_grad", "detach", "param_group"):
        model = wrapped()
        train(model, {**POLICY, "mechanism": mechanism}, loss)
        ends.append(observe(model))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_adapter_that_rewrites_the_base_is_refused(how: str) -> None:
    """As the page says."""
    with pytest.raises(PolicyError, match="rewrites the base"):
        train(wrapped(init_lora_weights=how), POLICY, loss)


def test_policy_counts() -> None:
    """4 frozen, 6 trainable, as on the page."""
    counts = plan_for(wrapped(), POLICY).counts()
    assert (counts["frozen"]["tensors"], counts["trainable"]["tensors"]) == (4, 6)
