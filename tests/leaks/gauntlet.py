"""How a leak is written down: what moves, from which step, and a small real run in which it does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.witness import Violation, Witness

Watch = Callable[..., Witness]
Play = Callable[[Watch], Iterable[Violation]]


@dataclass(frozen=True)
class Leak:
    """`moved` are the names to be reported; `step` the first bad one, None where the channel is no step."""

    id: str
    moved: frozenset[str]
    step: int | None
    play: Play


@dataclass(frozen=True)
class Control:
    """Something that looks like a leak to a careless detector and changes no frozen byte."""

    id: str
    play: Play


LEAKS: list[Leak] = []
CONTROLS: list[Control] = []


def leak(id: str, *, moved: Iterable[str], step: int | None = 1) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        LEAKS.append(Leak(id, frozenset(moved), step, play))
        return play

    return add


def control(id: str) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        CONTROLS.append(Control(id, play))
        return play

    return add


class Net(nn.Module):
    """A body that is declared frozen and a head that trains."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.body(x)))
        return out


class NormNet(nn.Module):
    """As Net, with a norm between body and head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x))
        return out


class TableNet(nn.Module):
    """An embedding of eight rows under a head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 8, **options)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(ids))
        return out


BODY = ("body.weight", "body.bias")
STATISTICS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


def net(width: int = 8, *, frozen: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net(width)
    model.body.requires_grad_(not frozen)
    return model


def norm_net(norm: nn.Module) -> NormNet:
    torch.manual_seed(0)
    return NormNet(norm.requires_grad_(False))


def table_net(**options: Any) -> TableNet:
    torch.manual_seed(0)
    return TableNet(**options)


def tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )


def rows_plan(model: nn.Module, name: str, rows: list[list[int]]) -> FreezePlan:
    rule = {"action": "freeze", "select": {"name": name, "rows": rows}}
    return resolve(Policy.from_json({"rules": [rule], "enforce": False}), tensors(model))


def from_step_plan(model: nn.Module, step: int) -> FreezePlan:
    when = [{"from_step": step, "to_step": None}]
    rule = {"action": "freeze", "select": {"name": "body.**"}, "when": when}
    return resolve(Policy.from_json({"rules": [rule], "enforce": False}), tensors(model))


def batch(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(100 + step)
    if isinstance(model, TableNet):
        return torch.randint(0, 8, (6,))
    return torch.randn(6, model.body.in_features if isinstance(model, Net) else 8)


def backward(model: nn.Module, step: int) -> None:
    model(batch(model, step)).square().sum().backward()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    w: Witness,
    *,
    steps: int = 3,
    first: int = 1,
    before_step: Callable[[int], Any] = lambda step: None,
    after_step: Callable[[int], Any] = lambda step: None,
    set_to_none: bool = True,
) -> list[Violation]:
    """A plain loop. `before_step` runs between backward and update, `after_step` after the update, within the step."""
    for step in range(first, first + steps):
        backward(model, step)
        before_step(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        after_step(step)
        w.step()
    return list(w.report().violations)


def sgd(parameters: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, **({"lr": 0.05} | options))


def at(step: int, do: Callable[[], Any]) -> Callable[[int], Any]:
    return lambda now: do() if now == step else None
