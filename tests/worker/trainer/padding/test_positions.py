"""Padding taken out of an array and put back, with gradients."""

from __future__ import annotations

import numpy as np
import torch

from worker.trainer.padding.positions import RealPositions

REAL = RealPositions.of(np.array([4, 5, 0, 1, 2]), 8, torch.device("cpu"))


def test_real_positions_in_the_order_given_and_zeros_for_padding() -> None:
    values = torch.arange(16.0).reshape(8, 2)
    removed = REAL.remove(values)
    assert torch.equal(removed, values[[4, 5, 0, 1, 2]])
    filled = REAL.fill(removed)
    assert torch.equal(filled[[0, 1, 2, 4, 5]], values[[0, 1, 2, 4, 5]])
    assert not filled[[3, 6, 7]].any()


def test_gradients_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    padded = torch.randn(8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    compact = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(REAL.remove, (padded,))
    assert torch.autograd.gradcheck(REAL.fill, (compact,))
