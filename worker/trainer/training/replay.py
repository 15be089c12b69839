"""Blame: a second run beside the first, over the steps in which a frozen tensor moved, shows what moved it.

The first run is not touched: the model is loaded anew, and generators are put back to where they were.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from app.errors import PermafrostError
from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.training import loop, memory
from worker.trainer.training.loop import Run
from worker.trainer.training.stop import StopRequest
from worker.trainer.witness.blame import ReplayFinding, replay_under_guard
from worker.trainer.witness.report import Violation

SECONDS = 60.0  # that the replayed steps may take together
SPARE = 0.5  # of the free memory that a second model may take


class Rebuild(Protocol):
    """Makes the second run, as it was after a step not later than `until`."""

    def __call__(self, reporter: Reporter, stop: StopRequest, *, until: int, cached: bool) -> Run: ...


@dataclass(slots=True)
class Replay:
    """For the first violations of `run`; those found later are not replayed."""

    run: Run
    rebuild: Rebuild
    spent: bool = False

    def explain(self, violations: Sequence[Violation]) -> list[ReplayFinding]:
        """What moved each tensor: operation and line, or in words why the replay could not show them."""
        if self.spent:
            return _unshown(violations, "only the first violation of a run is replayed")
        self.spent = True
        if problem := _too_large(self.run):
            return _unshown(violations, problem)
        plain, tensors = determinism.random_states()
        try:
            return self._replayed(violations)
        except (PermafrostError, RuntimeError, OSError, ValueError) as error:
            return _unshown(violations, f"the replay could not begin: {error}")
        finally:
            determinism.restore_random_states(plain, tensors)

    def _replayed(self, violations: Sequence[Violation]) -> list[ReplayFinding]:
        names = [violation.name for violation in violations]
        until = max(violation.first_bad_step for violation in violations)
        with Reporter(Path(os.devnull)) as silent:
            until_good = min(each.last_good_step for each in violations)
            cached = self.run.caching is not None
            run = self.rebuild(silent, self.run.stop, until=until_good, cached=cached)
            witness = run.watch.witness
            witness.start()
            ends: list[str] = []
            found = replay_under_guard(
                lambda: ends.append(_advance(run, names, until=until)),
                names=names,
                tensor=witness.tensor,
                drifted=witness.drifted,
                start=run.done,
            )
            witness.finish("a replay")
        return [_in_words(finding, ends[0], run) for finding in found]


def _advance(run: Run, names: Collection[str], *, until: int) -> str:
    """Train on, until every name has moved or step `until` is done; which steps that were, in words."""
    run.model.train()
    deadline = time.monotonic() + SECONDS
    witness, step, why = run.watch.witness, run.done, ""
    while step < until and not set(names) <= {each.name for each in witness.violations}:
        if time.monotonic() > deadline or run.stop.asked:
            why = f"; {until - step} more were not, for want of time"
            break
        try:
            loop.update(run, step + 1)
        except (PermafrostError, RuntimeError) as error:
            why = f"; step {step + 1} ended in {type(error).__name__}: {error}"
            break
        step += 1
        witness.step()
        witness.check()
    return f"updates {run.done + 1} to {step} were replayed{why}"


def _in_words(finding: ReplayFinding, replayed: str, run: Run) -> ReplayFinding:
    # A scaler skips updates whose gradients overflow, and those are not counted.
    step = None if run.scaler.is_enabled() else finding.step
    if finding.operation is not None:
        return replace(finding, step=step)
    return replace(finding, step=step, explanation=f"{finding.explanation} ({replayed})")


def _unshown(violations: Sequence[Violation], why: str) -> list[ReplayFinding]:
    return [ReplayFinding(violation.name, None, None, None, why) for violation in violations]


def _too_large(run: Run) -> str | None:
    """A second model with gradients and optimizer state, on the host and, where there is one, on the GPU."""
    need = _bytes(run.model) + 4 * sum(each.numel() * each.element_size() for each in run.parameters)
    free = memory.free_host_bytes()
    if run.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(run.device)[0])
    if need <= SPARE * free:
        return None
    return f"no replay: a second model of {need:,} bytes does not fit beside the first ({free:,} bytes are free)"


def _bytes(model: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
