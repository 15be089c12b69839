"""Cross-entropy over a vocabulary, a few positions at a time, so that no second array of the logits' size is kept.

Plain torch keeps the log-probabilities of all positions from forward to backward, and makes two more arrays of that
size there. Here the backward pass starts from the logits again, part by part, as Liger Kernel does (Hsu et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worker.trainer.data.batch import IGNORED

# Float32 that exists at a time beside the logits: what a CPU's cache holds, and what keeps a GPU busy.
PART_BYTES, PART_BYTES_ON_DEVICE = 4 << 20, 128 << 20


def token_losses(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """(n,) in float32: a loss for each of the n targets that is not `IGNORED`, in their order.

    `logits` is (..., vocabulary), `targets` (...). What `F.cross_entropy(reduction="none")` gives, and its gradient.
    """
    flat, classes = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    rows = (classes != IGNORED).nonzero()[:, 0]
    # Where few carry loss (the answers to long prompts) only those are looked at; where most do, a copy costs more.
    if 2 * len(rows) < len(classes):
        return _losses(flat, classes.index_select(0, rows), rows, label_smoothing)
    return _losses(flat, classes, None, label_smoothing).index_select(0, rows)


def _losses(logits: Tensor, targets: Tensor, rows: Tensor | None, smoothing: float) -> Tensor:
    found: Tensor = _CrossEntropy.apply(logits, targets, rows, smoothing)  # type: ignore[no-untyped-call]
    return found


class _CrossEntropy(torch.autograd.Function):
    """Of `logits[rows]`, or of all of them; 0 for an ignored target."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rows: Tensor | None, smoothing: float) -> Tensor:
        ctx.save_for_backward(logits, targets, rows)
        ctx.smoothing = smoothing
        losses = logits.new_empty(len(targets), dtype=torch.float32)
        for part in _parts(logits, len(targets)):
            chosen = logits[part] if rows is None else logits.index_select(0, rows[part])
            losses[part] = F.cross_entropy(
                chosen.float(), targets[part], reduction="none", label_smoothing=smoothing, ignore_index=IGNORED
            )
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax less the smoothed one-hot target, each row times its scale."""
        logits, targets, rows = ctx.saved_tensors
        scales, classes = scales[:, None], targets.clamp_min(0)[:, None]
        gradient = torch.empty_like(logits) if rows is None else torch.zeros_like(logits)
        direct = rows is None and logits.dtype is torch.float32
        for part in _parts(logits, len(targets)):
            chosen = logits[part] if rows is None else logits.index_select(0, rows[part])
            slope = torch.softmax(chosen.float(), dim=-1, out=gradient[part] if direct else None)
            slope.scatter_(1, classes[part], slope.gather(1, classes[part]) - (1.0 - ctx.smoothing))
            if ctx.smoothing:
                slope.sub_(ctx.smoothing / slope.shape[-1])
            slope.mul_(scales[part])
            if rows is not None:
                gradient.index_copy_(0, rows[part], slope.to(gradient.dtype))
            elif not direct:
                gradient[part] = slope
        if rows is None:  # where a filled up row's logits are no numbers, a scale of 0 makes no 0
            gradient.index_fill_(0, (targets == IGNORED).nonzero()[:, 0], 0.0)
        return gradient, None, None, None


def _parts(logits: Tensor, count: int) -> list[slice]:
    limit = PART_BYTES if logits.device.type == "cpu" else PART_BYTES_ON_DEVICE
    size = max(1, limit // (4 * logits.shape[-1]))
    return [slice(at, at + size) for at in range(0, count, size)]
