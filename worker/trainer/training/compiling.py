"""torch.compile on request, in place: names, state_dict and freezing stay. A failure names the hyperparameter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from app.errors import InvalidRequest
from worker.trainer.data.batch import IGNORED, Batch

PARAM = "hyperparameters.compile"
#: Graphs of one model: each batch shape has its own, in training and in evaluation. Beyond the default of eight, torch
#: goes on in eager mode without a word, and a resumed run would count anew and so end with other bits.
GRAPHS = 1 << 16
LEAST_WIDTH = 16


def compile_model(model: nn.Module, cache: Path, device: torch.device) -> None:
    """Have the model compute by compiled graphs, made at the first batch of each shape and kept in `cache`.

    Call after `freeze`. InvalidRequest where a CPU's graphs would find no C++ compiler.
    """
    _configure(cache)
    if device.type == "cpu":
        _refuse_without_compiler()
    inner: Callable[..., Any] = model._call_impl

    # torch does not look into a call of its own containers, such as nn.Sequential; into one of ours it does.
    def call(*inputs: Any, **named: Any) -> Any:
        return inner(*inputs, **named)

    model._compiled_call_impl = torch.compile(call, dynamic=False)


def filled_up(batch: Batch, *, limit: int, pad: int) -> Batch:
    """Pad token rows to the next power of two, up to `limit`; otherwise almost every batch needs a graph of its own."""
    width = batch.width
    padded = min(limit, max(LEAST_WIDTH, 1 << (width - 1).bit_length())) if width else 0
    if padded <= width:
        return batch
    inputs = {
        name: F.pad(each, (0, padded - width), value=pad if name == "input_ids" else 0)
        for name, each in batch.inputs.items()
    }
    by_token = batch.targets.ndim == 2
    targets = F.pad(batch.targets, (0, padded - width), value=IGNORED) if by_token else batch.targets
    return replace(batch, inputs=inputs, targets=targets)


def refusal(error: Exception) -> InvalidRequest | None:
    """The refusal for an error of the compiler; None for any other error."""
    if not isinstance(error, TorchDynamoException):
        return None
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    message = f"torch.compile does not work on this model and worker, leave compile out; the log has it whole ({first})"
    return InvalidRequest(message, param=PARAM)


def _configure(cache: Path) -> None:
    """Compile in this process, since a trainer may not start others, and into a cache that no other job uses."""
    from torch._inductor import config

    cache.mkdir(exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    # A trainer may not make anything in a /tmp that holds the service's own folder.
    os.environ["TMPDIR"] = tempfile.tempdir = str(cache)
    config.compile_threads = 1
    limits: Any = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = GRAPHS
    limits.fail_on_recompile_limit_hit = True


def _refuse_without_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        message = (
            "torch.compile needs a C++ compiler, and this worker has none; install g++ there, or leave compile out"
        )
        raise InvalidRequest(message, param=PARAM) from error
