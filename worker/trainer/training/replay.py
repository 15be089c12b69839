"""Replays the steps in which a frozen tensor moved, in a second run beside the first, to show what moved it.

The first run is not touched: the replay loads the model anew, and puts the random generators back where they were.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from app.errors import PermafrostError
from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.training import loop, memory
from worker.trainer.training.loop import Run
from worker.trainer.training.state import TrainingState
from worker.trainer.training.stop import StopRequest
from worker.trainer.witness.blame import ReplayFinding, replay_under_guard
from worker.trainer.witness.observe import stored_bytes
from worker.trainer.witness.report import Violation

SECONDS = 60.0  # that the replayed steps may take together
SPARE = 0.5  # of the free memory that a second model may take


class Rebuild(Protocol):
    """Makes a second run of the job, restored to a step not later than `until`."""

    def __call__(self, reporter: Reporter, *, until: int) -> Run: ...


@dataclass(slots=True)
class Replay:
    """Replays once, for the first violations of a run. A second run takes `nbytes` on the host, and on the device."""

    rebuild: Rebuild
    stop: StopRequest
    device: torch.device
    nbytes: int
    done: bool = False

    def explain(self, violations: Sequence[Violation]) -> list[ReplayFinding]:
        """The operation and line that moved each tensor, or a sentence on why the replay did not show it."""
        if self.done:
            return _not_shown(violations, "only the first violation of a run is replayed")
        self.done = True
        if problem := self._too_large():
            return _not_shown(violations, problem)

        plain, tensors = determinism.random_states()
        try:
            return self._replayed(violations)
        except (PermafrostError, RuntimeError, OSError, ValueError) as error:
            return _not_shown(violations, f"the replay could not begin: {error}")
        finally:
            determinism.restore_random_states(plain, tensors)

    def _replayed(self, violations: Sequence[Violation]) -> list[ReplayFinding]:
        names = [violation.name for violation in violations]
        first_bad = max(violation.first_bad_step for violation in violations)
        last_good = min(violation.last_good_step for violation in violations)
        with Reporter(Path(os.devnull)) as silent:
            run = self.rebuild(silent, until=last_good)
            witness = run.witness.witness
            witness.start()
            ends: list[str] = []
            findings = replay_under_guard(
                lambda: ends.append(self._train_on(run, names, until=first_bad)),
                names=names,
                tensor=witness.tensor,
                drifted=witness.drifted,
                start=run.state.steps_before,
            )
            witness.finish("a replay")
        # A scaler skips updates whose gradients overflow, and those are not counted.
        counted = not run.state.scaler.is_enabled()
        return [_completed(finding, ends[0], counted=counted) for finding in findings]

    def _train_on(self, run: Run, names: Collection[str], *, until: int) -> str:
        """Train until every name has moved or step `until` is done; a sentence on which steps that were."""
        run.state.model.train()
        deadline = time.monotonic() + SECONDS
        witness, step, reason = run.witness.witness, run.state.steps_before, ""
        while step < until and not set(names) <= {violation.name for violation in witness.violations}:
            if time.monotonic() > deadline or self.stop.requested:
                reason = f"; {until - step} more were not, for lack of time"
                break
            try:
                loop.update(run, step + 1)
            except (PermafrostError, RuntimeError) as error:
                reason = f"; step {step + 1} ended in {type(error).__name__}: {error}"
                break
            step += 1
            witness.step()
            witness.check()
        return f"updates {run.state.steps_before + 1} to {step} were replayed{reason}"

    def _too_large(self) -> str | None:
        free = memory.free_host_bytes()
        if self.device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(self.device)[0])
        if self.nbytes <= SPARE * free:
            return None
        need = f"a second model of {self.nbytes:,} bytes"
        return f"no replay: {need} does not fit beside the first ({free:,} bytes are free)"


def bytes_of_second_run(state: TrainingState) -> int:
    """A model with the gradients and the optimizer's state, for which four times the parameters is enough."""
    model = sum(stored_bytes(tensor) for tensor in (*state.model.parameters(), *state.model.buffers()))
    return model + 4 * sum(parameter.nbytes for parameter in state.parameters)


def _completed(finding: ReplayFinding, replayed: str, *, counted: bool) -> ReplayFinding:
    """With the step only where steps are counted, and with what was replayed if that did not show the cause."""
    step = finding.step if counted else None
    if finding.operation is not None:
        return replace(finding, step=step)
    return replace(finding, step=step, explanation=f"{finding.explanation} ({replayed})")


def _not_shown(violations: Sequence[Violation], reason: str) -> list[ReplayFinding]:
    return [ReplayFinding(violation.name, None, None, None, reason) for violation in violations]
