"""Numbers that are none any more: the run ends there, names step and batch, and keeps no such state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from app.errors import DataError
from worker.trainer.data.sampler import Sampler
from worker.trainer.freeze.apply import Frozen
from worker.trainer.ranks.group import Group
from worker.trainer.witness.fingerprint import shard

#: A scaler that has come down to this has skipped some thirty updates in a row: no scale will do.
LEAST_SCALE = 1e-4


class Training(Protocol):
    """What of a run is looked at here."""

    frozen: Frozen
    group: Group
    lines: Sequence[int]
    order: Sampler
    scaler: torch.amp.GradScaler
    total_steps: int


class Diverged(DataError):
    """The loss, the gradient or a weight is not a number any more."""

    code = "diverged"


def refuse_infinite(run: Training, step: int, loss: float, norm: float | None) -> None:
    """Before the update, so that the weights stay those of the last good step."""
    if run.scaler.is_enabled():  # it skips such steps and lowers its scale
        norm = None
        if run.scaler.get_scale() < LEAST_SCALE:
            what = f"the gradient overflows in fp16 at any scale (the last was {run.scaler.get_scale():.3g})"
            raise _diverged(run, step, f"{what}, so nothing is learned; use bf16 or fp32")
    if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
        return
    if step > 1 and (names := _not_finite(dict(_named(run)))):
        # Nothing looked at the gradient of the step before.
        raise _diverged(run, step - 1, f"the update made {_listed(names)} no numbers")
    raise _diverged(run, step, f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}")


class Watchman:
    """Looks at a state before it is kept. What the base holds that is no number (a mask's -inf) may stay."""

    def __init__(self, moving: Mapping[str, Tensor]) -> None:
        self._before = frozenset(_not_finite(moving))

    def refuse(self, run: Training, step: int, moving: Mapping[str, Tensor]) -> None:
        """Diverged where an update made a tensor no numbers, though the loss before it was one."""
        names = [name for name in _not_finite(moving) if name not in self._before]
        if run.group.any(bool(names)):
            what = _listed(names) if names else "tensors of another rank"
            raise _diverged(run, step, f"the update made {what} no numbers")


def _diverged(run: Training, step: int, what: str) -> Diverged:
    lines = sorted(run.lines[at] for at in run.order.positions(step))
    problem = {"line": None, "field": None, "code": "diverged", "message": what, "step": step, "lines": lines[:100]}
    return Diverged(
        f"{what} at step {step} of {run.total_steps} (a batch of lines {_some(lines)} of the training file); lower the "
        "learning rate, clip gradients (max_grad_norm), or look at these examples",
        param="training_file",
        errors=[problem],
    )


def _named(run: Training) -> Sequence[tuple[str, Tensor]]:
    return run.frozen.named_parameters()


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    found = []
    for name, tensor in tensors.items():
        mine = shard(tensor.detach())
        if mine.is_floating_point() and not bool(torch.isfinite(mine).all()):
            found.append(name)
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more


def _some(lines: Sequence[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:5])
    return f"{shown} and {len(lines) - 5} more" if len(lines) > 5 else shown
