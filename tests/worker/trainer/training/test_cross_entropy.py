"""Losses and gradients are those of torch's cross-entropy, however few positions are in hand at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worker.trainer.data.batch import IGNORED
from worker.trainer.training import cross_entropy
from worker.trainer.training.cross_entropy import token_losses

SHAPE, VOCABULARY = (3, 17), 50


@pytest.fixture(params=[1, 7 * 4 * VOCABULARY, 1 << 30], ids=["one by one", "sevens", "at once"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 bytes that may exist at a time."""
    monkeypatch.setattr(cross_entropy, "PART_BYTES", request.param)


def drawn(*, carry: float) -> tuple[Tensor, Tensor]:
    """Logits and targets, some share of which carry loss."""
    torch.manual_seed(0)
    targets = torch.randint(0, VOCABULARY, SHAPE)
    targets[torch.rand(SHAPE) >= carry] = IGNORED
    return 5 * torch.randn(*SHAPE, VOCABULARY), targets


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("carry", [0.2, 0.8, 1.0])
def test_losses_and_gradients_are_those_of_torch(carry: float, smoothing: float) -> None:
    """Each row under a weight of its own."""
    logits, targets = drawn(carry=carry)
    mine, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = token_losses(mine, targets, label_smoothing=smoothing)
    chosen = targets != IGNORED
    wanted = F.cross_entropy(plain[chosen], targets[chosen], reduction="none", label_smoothing=smoothing)
    weights = torch.rand(len(wanted))
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mine.grad, plain.grad)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("carry", [0.2, 1.0])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, carry: float) -> None:
    """Losses are float32; gradients are rounded once, at the end, after a scaler's factor."""
    logits, targets = drawn(carry=carry)
    mine, exact = logits.to(dtype).requires_grad_(), logits.to(dtype).float().requires_grad_()
    losses = token_losses(mine, targets)
    assert losses.dtype == torch.float32
    chosen, scale = targets != IGNORED, 1024.0
    (scale * losses.sum()).backward()
    (scale * F.cross_entropy(exact[chosen], targets[chosen], reduction="sum")).backward()
    assert mine.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(mine.grad.float(), exact.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_nothing_that_carries_gives_nothing() -> None:
    """A batch of prompts alone: no losses, and a gradient of zeros."""
    logits, targets = drawn(carry=0.0)
    logits.requires_grad_()
    losses = token_losses(logits, targets)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("carry", [0.2, 0.8])
def test_what_is_no_number_where_nothing_is_asked_stays_there(carry: float) -> None:
    """A row that is all padding may have attended to nothing: neither loss nor gradient hear of it."""
    logits, targets = drawn(carry=carry)
    logits[targets == IGNORED] = torch.nan
    logits.requires_grad_()
    losses = token_losses(logits, targets)
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[targets == IGNORED].any()


def test_nothing_as_wide_as_the_vocabulary_is_kept() -> None:
    """Between forward and backward only the logits themselves are held."""
    logits, targets = drawn(carry=1.0)
    logits.requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Any:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_losses(logits, targets).sum()
    wide = [each for each in kept if each.numel() >= logits.numel()]
    assert {each.data_ptr() for each in wide} == {logits.data_ptr()}


def test_a_target_outside_the_vocabulary_is_an_error() -> None:
    """As torch's own: the data does not fit the model."""
    logits, targets = drawn(carry=1.0)
    targets[0, 0] = VOCABULARY
    with pytest.raises(IndexError, match="out of bounds"):
        token_losses(logits, targets)
