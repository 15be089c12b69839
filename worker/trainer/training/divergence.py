"""Stops a run when the loss, a gradient or a weight becomes NaN or infinite, and reports step and batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from app.errors import DataError
from worker.trainer.training.job import TrainingJob
from worker.trainer.training.state import TrainingState
from worker.trainer.witness.fingerprint import shard

#: A scaler that has come down to this has skipped some thirty updates in a row: no scale will do.
LEAST_SCALE = 1e-4


class Diverged(DataError):
    """The loss, a gradient or a weight is NaN or infinite."""

    code = "diverged"


def refuse_divergence(job: TrainingJob, state: TrainingState, step: int, loss: float, norm: float | None) -> None:
    """Diverged if loss or gradient norm is not finite. Called before the update, so the weights are still good."""
    if state.scaler.is_enabled():  # it skips updates whose gradient overflows, and lowers its scale
        norm = None
        scale = state.scaler.get_scale()
        if scale < LEAST_SCALE:
            what = f"the gradient overflows in fp16 at any scale (the last was {scale:.3g})"
            raise _diverged(job, step, f"{what}, so nothing is learned; use bf16 or fp32")
    if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
        return

    if step > 1 and (names := _not_finite(dict(state.frozen.named_parameters()))):
        # Without clipping nothing looked at the gradient of the step before.
        raise _diverged(job, step - 1, f"the update made {_listed(names)} NaN or infinite")
    raise _diverged(job, step, f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}")


class DivergenceMonitor:
    """Refuses to save a state with NaN or infinity, other than what the base holds itself (a mask's -inf)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._not_finite_in_base = frozenset(_not_finite(tensors))

    def refuse(self, job: TrainingJob, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Diverged if a tensor has become NaN or infinite on any rank."""
        names = [name for name in _not_finite(tensors) if name not in self._not_finite_in_base]
        if job.group.any(bool(names)):
            what = _listed(names) if names else "tensors of another rank"
            raise _diverged(job, step, f"the update made {what} NaN or infinite")


def _diverged(job: TrainingJob, step: int, what: str) -> Diverged:
    lines = sorted(job.lines[position] for position in job.sampler.positions(step))
    problem = {"line": None, "field": None, "code": "diverged", "message": what, "step": step, "lines": lines[:100]}
    return Diverged(
        f"{what} at step {step} of {job.total_steps} (a batch of lines {_first_lines(lines)} of the training file); "
        "lower the learning rate, clip gradients (max_grad_norm), or look at these examples",
        param="training_file",
        errors=[problem],
    )


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    names = []
    for name, tensor in tensors.items():
        own = shard(tensor.detach())
        if own.is_floating_point() and not bool(torch.isfinite(own).all()):
            names.append(name)
    return names


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more


def _first_lines(lines: Sequence[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:5])
    return f"{shown} and {len(lines) - 5} more" if len(lines) > 5 else shown
