"""A pass that ran out of memory, undone: what it drew from the generators, and what it allocated."""

from __future__ import annotations

import torch
from torch import Tensor


def generators(device: torch.device) -> list[Tensor]:
    """The generators that a pass on this device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def give_back(device: torch.device, drawn: list[Tensor]) -> None:
    """Put the generators back to where they were, and the allocator's cached blocks to the device."""
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
        torch.cuda.empty_cache()
