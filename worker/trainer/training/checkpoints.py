"""A run's checkpoints: what of the model to save, when there is room for it, and how a run resumes from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.jsontypes import JsonDict
from worker.protocol import Reporter
from worker.trainer import checkpoint, determinism
from worker.trainer.checkpoint import Content, SavedCheckpoint
from worker.trainer.models import quantised
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.replicas import refuse_different_replicas
from worker.trainer.training import memory
from worker.trainer.training.checkpoint_writer import CheckpointWriter
from worker.trainer.training.divergence import DivergenceMonitor
from worker.trainer.training.job import TrainingJob
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.training.objectives import Metrics
from worker.trainer.training.patience import Patience
from worker.trainer.training.progress import TrainingProgress
from worker.trainer.training.state import TrainingState
from worker.trainer.witness.witness import Witness

SPARE = 0.5  # of the free memory that a copy of the state may take
#: After so many checkpoints in a row that could not be written the run ends, and waits until there is room.
MISSES = 3


@dataclass(slots=True)
class Checkpoints:
    """Writes, finds and loads the checkpoints of one job. `writer` is entered around training."""

    job: TrainingJob
    tracked: TrackedModel
    reporter: Reporter
    writer: CheckpointWriter = field(default_factory=CheckpointWriter)
    misses: int = 0  # checkpoints in a row that could not be written
    monitor: DivergenceMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = DivergenceMonitor(self._moving())  # with the tensors of the base

    def save(
        self, state: TrainingState, step: int, metrics: Metrics, *, witness: JobWitness, progress: TrainingProgress
    ) -> None:
        """Copy the state after `step`, and write it while training goes on; without memory for a copy, write it first.

        A full disk costs the checkpoint, not the run; OSError when that has happened `MISSES` times in a row.
        """
        job = self.job
        self.refuse_divergence(step)
        witness.before_checkpoint()
        refuse_different_replicas(job.group, self.tracked.live(), step=step)
        figures = {
            "scaler": state.scaler.state_dict(),
            "history": list(progress.history),
            "seconds": state.seconds_before + progress.seconds(),
            "witness": witness.witness.state_dict(),
            "environment": self._environment(),
            "patience": state.patience.to_json(),
            "micro_batch_size": state.micro_batch_size,
            "padding": state.padding,
            "resumed": state.resumed,
            "not_deterministic": list(determinism.relaxed),
        }

        self.writer.wait()  # for the last one's memory, and its place on the disk
        moving = self._moving()
        pieces = {} if job.group.sharded else self._pieces()  # a shard's piece would not be one of the whole
        masters = state.masters.copies
        size = checkpoint.size_of([*moving.values(), *pieces.values(), *masters.values()], state.optimizer)
        copied = size <= SPARE * memory.free_host_bytes()
        content = checkpoint.take(
            tensors=moving,
            optimizer=state.optimizer,
            state=figures,
            stored=pieces,
            masters=masters,
            copied=copied,
            group=job.group,
        )
        if not job.group.leads:
            return
        self.writer.begin(partial(self._write, content, step, metrics, best=state.patience.step))
        if not copied:
            self.writer.wait()

    def wait(self) -> None:
        """Until the last checkpoint is written; raises its error if it had one."""
        self.writer.wait()

    def refuse_divergence(self, step: int) -> None:
        """Diverged if a tensor is NaN or infinite: such a state is neither saved nor a result."""
        self.monitor.refuse(self.job, step, self._moving())

    def find(self) -> SavedCheckpoint | None:
        """The checkpoint to resume from. Sets the thread count of the attempt that wrote it, since bits depend on it.

        The first rank decides which one, since a damaged one may look intact from another machine.
        """
        job = self.job
        saved = self.newest() if job.group.leads else None
        step = job.group.follow(saved.step if saved else None)
        if step is not None and not job.group.leads:
            saved = self._read(step)
        if saved is None:
            if checkpoint.steps_in(job.workspace.checkpoints):
                self.reporter.event("no checkpoint can be used: training begins at the first step again", level="warn")
            return None

        before = saved.state["environment"]
        torch.set_num_threads(int(before["threads"]))
        now = self._environment()
        other = _differing(before, now)
        exact = "" if other else ", exactly as if it had not stopped"
        self.reporter.event(f"goes on after step {saved.step}{exact}", step=saved.step)
        if other:
            message = f"not exact: {', '.join(other)} differ from before, so the result may differ in its last bits"
            self.reporter.event(message, level="warn", before=before, now=now)
        return saved

    def newest(self, *, until: int | None = None) -> SavedCheckpoint | None:
        """The newest intact checkpoint, of a step not after `until`."""
        return checkpoint.newest(
            self.job.workspace.checkpoints,
            run=self.job.identity,
            live=self._moving(),
            on_damage=self._report_damage,
            until=until,
        )

    def resume(
        self, state: TrainingState, saved: SavedCheckpoint, *, witness: Witness, progress: TrainingProgress
    ) -> None:
        """Restore everything that the checkpoint holds; the random generators last."""
        checkpoint.restore_tensors(saved, self._moving())
        state.frozen.at_step(saved.step, state.optimizer)
        state.masters.load(saved.masters)
        with state.masters.loading():
            saved.restore_optimizer(state.optimizer)
        state.scaler.load_state_dict(saved.state["scaler"])
        witness.load_state_dict(saved.state["witness"])
        progress.history[:] = saved.state["history"]

        state.seconds_before = float(saved.state["seconds"])
        state.patience = Patience.from_json(saved.state["patience"])
        # A batch that was cut smaller when memory ran out adds up in another order.
        state.micro_batch_size = int(saved.state["micro_batch_size"])
        differs = _differing(saved.state["environment"], self._environment())
        state.resumed = [*saved.state.get("resumed", ()), {"step": saved.step, "differs": differs}]
        relaxed = saved.state.get("not_deterministic", ())
        determinism.relaxed += [name for name in relaxed if name not in determinism.relaxed]
        state.steps_before = saved.step

        rank = self.job.group.rank
        if not saved.restore_random_states(rank):
            determinism.seed_everything(self.job.order.seed + saved.step, rank=rank)

    def restore_weights(self, step: int) -> bool:
        """Load the weights of an earlier step; False, and an event, if its checkpoint cannot be read."""
        try:
            checkpoint.restore_tensors(self._read(step), self._moving())
        except checkpoint.UNREADABLE as error:
            message = f"the best state, after step {step}, cannot be read, so the result is the last one: {error}"
            self.reporter.event(message, level="warn", step=step)
            return False
        return True

    def _read(self, step: int) -> SavedCheckpoint:
        return checkpoint.read(checkpoint.path_of(self.job.workspace.checkpoints, step), run=self.job.identity)

    def _write(self, content: Content, step: int, metrics: Metrics, *, best: int) -> None:
        """Runs in the writer's thread. Reports the checkpoint once its files would survive a power cut."""
        folder = self.job.workspace.checkpoints
        try:
            path = checkpoint.write(
                folder,
                content,
                step=step,
                run=self.job.identity,
                keep=self.job.settings.keep_checkpoints,
                best=best,
                job_id=self.job.order.job_id,
            )
        except OSError as error:
            self.misses += 1
            self.reporter.event(f"no checkpoint after step {step}: {error}", level="warn", step=step)
            if self.misses >= MISSES:
                raise
            return
        self.misses = 0
        kept = checkpoint.steps_in(folder)
        self.reporter.report(
            "checkpoint", step=step, path=f"checkpoints/{path.name}", metrics={"step": step, **metrics}, kept=kept
        )

    def _environment(self) -> JsonDict:
        config = getattr(self.tracked.model, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        quantiser = quantised.package_of(self.tracked.model)
        return determinism.environment(self.job.device, attention=attention, group=self.job.group, quantiser=quantiser)

    def _moving(self) -> dict[str, Tensor]:
        """Every tensor that training may move; in an audit, where any may, all of them."""
        plan = self.job.plan
        live = self.tracked.live()
        if not plan.policy.enforce or plan.policy.on_violation == "continue":
            return live
        frozen = {decision.name for decision in plan.frozen}
        return {name: tensor for name, tensor in live.items() if name not in frozen}

    def _pieces(self) -> dict[str, Tensor]:
        """Stored tensors that are a part of a live one, whose bytes need not be one stretch of its own."""
        moving = self._moving()
        pieces = [stored for stored in self.tracked.stored() if stored.part]
        return {stored.name: stored.tensor for stored in pieces if not stored.live or stored.live in moving}

    def _report_damage(self, path: Path, reason: str) -> None:
        self.reporter.event(f"checkpoint {path.name} is not used: {reason}", level="warn")


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another in the environment now. A processor that an older checkpoint does not name counts as this one."""
    before = {"processor": now["processor"], **before}
    return sorted(name for name in now if now[name] != before.get(name))
