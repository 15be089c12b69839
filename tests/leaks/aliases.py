"""Leaks through another name for the same memory. Rows A1 to A7."""

import ctypes
import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.errors import PolicyError
from tests.leaks.gauntlet import BODY, Watch, at, leak, net, sgd, train
from worker.trainer.witness import Violation

Found = Iterable[Violation]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.lm_head(self.embed(ids))
        return out


@leak("A1", moved=["embed.weight"])
def tie(watch: Watch) -> Found:
    """`lm_head.weight` is in no named_parameters(): frozen by that name alone it is refused, and by both it is seen."""
    torch.manual_seed(0)
    model = Tied()
    assert "lm_head.weight" not in dict(model.named_parameters())
    with pytest.raises(PolicyError, match="one tensor"):
        watch(model, freeze=["lm_head.**"])
    optimizer = sgd(model.parameters())
    with watch(model, freeze=["lm_head.**", "embed.**"]) as w:
        for _ in range(2):
            model(torch.arange(8)).square().sum().backward()
            optimizer.step()
            w.step()
        return w.report().violations


@leak("A2", moved=BODY)
def flat_buffer(watch: Watch) -> Found:
    """All weights are views of one flat tensor, which the optimizer steps."""
    model = net(frozen=True)
    parameters = list(model.parameters())
    flat = torch.cat([p.data.flatten() for p in parameters])
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.data = part.view_as(p)
    flat.requires_grad_()
    optimizer = torch.optim.AdamW([flat], lr=0.05)
    with watch(model, freeze=["body.**"]) as w:
        for _ in range(2):
            flat.grad = torch.ones_like(flat)
            optimizer.step()
            w.step()
        return w.report().violations


def written(watch: Watch, write: Callable[[Tensor], Any]) -> Found:
    """Two ordinary steps, with `write` within the second."""
    model = net(frozen=True)
    with watch(model, freeze=["body.**"]) as w:
        do = at(2, lambda: write(model.body.weight.detach()))
        return train(model, sgd(model.head.parameters()), w, after_step=do)


@leak("A3", moved=["body.weight"], step=2)
def numpy_view(watch: Watch) -> Found:
    """A numpy array over the same memory."""
    return written(watch, lambda weight: weight.numpy().fill(0.5))


@leak("A4", moved=["body.weight"], step=2)
def dlpack(watch: Watch) -> Found:
    """A tensor of another library, or of torch, by dlpack."""
    return written(watch, lambda weight: torch.from_dlpack(weight).add_(1))  # type: ignore[attr-defined]


@leak("A5", moved=["body.weight"], step=2)
def storage(watch: Watch) -> Found:
    """One byte of the storage."""
    return written(watch, lambda weight: weight.untyped_storage().__setitem__(0, weight.untyped_storage()[0] ^ 1))


@leak("A6", moved=["body.weight"], step=2)
def pointer(watch: Watch) -> Found:
    """C code with the address."""
    return written(watch, lambda weight: ctypes.memset(weight.data_ptr(), 7, 4))


def write_shared(weight: Tensor) -> None:
    weight[0] = 0.5


@leak("A7", moved=["body.weight"], step=2)
def another_process(watch: Watch) -> Found:
    """A second process that has the shared memory open."""
    model = net(frozen=True)
    model.body.share_memory()

    def write() -> None:
        child = multiprocessing.get_context("fork").Process(target=write_shared, args=(model.body.weight.detach(),))
        child.start()
        child.join()
        assert child.exitcode == 0

    with watch(model, freeze=["body.**"]) as w:
        return train(model, sgd(model.head.parameters()), w, after_step=at(2, write))
