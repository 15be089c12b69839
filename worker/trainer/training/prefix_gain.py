"""Measures before the first step how many times as fast a run is because its prefix's results are kept.

Nothing is decided by it: a clock says something else in every attempt.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from worker.trainer.prefix.kept_results import KeptResults
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training.prefix_request import PrefixRequest

LEAST_PASSES = 20  # a shorter run ends before the question matters


def gain(
    request: PrefixRequest, prefix: Prefix, results: KeptResults, *, filling: float, per_example: float | None
) -> float | None:
    """Seconds of the run's passes with the prefix computed in each, over those with its results kept.

    `filling` is the seconds that making the results took, `per_example` those of one example through the prefix.
    """
    if per_example is None or request.passes < LEAST_PASSES:
        return None
    rest = _seconds_of_a_pass(request, prefix, results)
    if rest is None:
        return None
    live = request.passes * (rest + per_example * request.size)
    return live / (filling + request.passes * rest)


def _seconds_of_a_pass(request: PrefixRequest, prefix: Prefix, results: KeptResults) -> float | None:
    """Of one forward and backward pass from kept results, in eval mode, so that nothing moves; None if it fails."""
    examples = request.parts["training"]
    began = time.perf_counter()
    batch = examples.batch(np.arange(min(request.size, len(examples)))).to(request.device)
    assert batch.rows is not None
    request.model.eval()
    try:
        values = [value.to(request.device) for value in results.get(batch.rows, batch.width)]
        with prefix.served(values, rows=len(batch.rows), width=batch.width):
            loss, _ = request.compute(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if request.device.type == "cuda":
            torch.cuda.synchronize(request.device)
    except RuntimeError:
        return None
    finally:
        request.model.zero_grad(set_to_none=True)
        request.model.train()
    return time.perf_counter() - began
