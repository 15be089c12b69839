"""What a run's memory is for: bytes by purpose, and the peak, as the job's log has them at the end of training."""

from __future__ import annotations

import resource
from collections.abc import Iterable

import torch
from torch import Tensor

from worker.trainer.freeze.quantised_parts import holds_codes, holds_scales, scales
from worker.trainer.training.state import TrainingState
from worker.trainer.witness.observe import stored_bytes


def memory_parts(state: TrainingState, device: torch.device) -> dict[str, int]:
    """Bytes of weights, of gradients, optimizer state and master copies, and the peak of the device or the process.

    Of several names of one tensor one counts. What is left of the peak are activations, and on a CPU the libraries.
    """
    trained = {id(parameter): parameter for parameter in state.parameters}
    held = {id(tensor): tensor for tensor in (*state.model.parameters(), *state.model.buffers(), *scales(state.model))}
    frozen = [tensor for key, tensor in held.items() if key not in trained]
    moments = [each for slots in state.optimizer.state.values() for each in slots.values() if isinstance(each, Tensor)]
    return {
        "frozen_weights": _bytes(frozen),
        "quantised_weights": _quantised(state),
        "trained_weights": _bytes(trained.values()),
        "gradients": _bytes(trained.values()),
        "optimizer": _bytes(moments),
        "master_weights": _bytes(state.masters.copies.values()),
        "peak": _peak(device),
    }


def _quantised(state: TrainingState) -> int:
    """Of the frozen weights, codes and scales."""
    codes = [module._parameters["weight"] for module in state.model.modules() if holds_scales(module)]
    layers = filter(holds_codes, state.model.modules())
    packed = [tensor for layer in layers for tensor in layer.parameters(recurse=False)]
    return _bytes([*(each for each in codes if each is not None), *scales(state.model), *packed])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(map(stored_bytes, tensors))


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
