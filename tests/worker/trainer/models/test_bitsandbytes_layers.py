"""The layers compute what bitsandbytes' own do, and leave weight and bias as they are stored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from worker.trainer.freeze.tensor_refs import tensor_refs

bitsandbytes = pytest.importorskip("bitsandbytes")


def pair(kind: str) -> tuple[Any, Any]:
    """The package's layer, and ours over the same tensors."""
    from worker.trainer.models.bitsandbytes_layers import replace_layers

    torch.manual_seed(0)
    if kind == "int8":
        theirs = bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    else:
        theirs = bitsandbytes.nn.Linear4bit(64, 32, compute_dtype=torch.bfloat16, quant_type="nf4")
    theirs = theirs.to("cpu").train()
    ours = nn.Sequential(copy.deepcopy(theirs))
    replace_layers(ours)
    return theirs, ours[0]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_arithmetic_is_the_package_s(kind: str, dtype: torch.dtype) -> None:
    """Forward and backward, to the bit, in training mode, where the package changes no codes."""
    theirs, ours = pair(kind)
    assert type(ours).__name__ == type(theirs).__name__ and isinstance(ours, type(theirs))
    values = torch.randn(4, 64, dtype=dtype)
    gradients: list[tuple[Any, Any]] = []
    for each in (theirs, ours):
        given = values.clone().requires_grad_()
        found = each(given)
        found.float().square().sum().backward()
        gradients.append((found.detach(), given.grad))
    assert torch.equal(gradients[0][0], gradients[1][0]) and torch.equal(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_pass_writes_nothing(kind: str) -> None:
    """Not in eval mode without gradients either, where the package repacks codes on some processors; nor the bias."""
    _, ours = pair(kind)
    held: dict[str, Any] = {ref.name: ref.tensor for ref in tensor_refs(ours)}
    before = {name: tensor.clone() for name, tensor in held.items()}
    with torch.no_grad():
        ours.eval()(torch.randn(4, 64, dtype=torch.bfloat16))
    after: dict[str, Any] = {ref.name: ref.tensor for ref in tensor_refs(ours)}
    assert set(after) == set(before)
    assert all(after[name].dtype == each.dtype and torch.equal(after[name], each) for name, each in before.items())
