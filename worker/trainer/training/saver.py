"""Checkpoints of one run: what of the model to save, under which identity, and the way back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.evidence.format.digest import sha256_file
from app.freeze.plan import FreezePlan
from worker.protocol import Reporter, WorkOrder, Workspace
from worker.trainer import checkpoint, determinism
from worker.trainer.checkpoint import Content, SavedCheckpoint
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.group import Group
from worker.trainer.ranks.replicas import refuse_different_replicas
from worker.trainer.training import memory
from worker.trainer.training.divergence import Watchman
from worker.trainer.training.hyperparameters import ResolvedHyperparameters
from worker.trainer.training.loop import Run
from worker.trainer.training.objectives import Metrics
from worker.trainer.training.patience import Patience

SPARE = 0.5  # of the free memory that a copy of the state may take
#: A run goes on without a checkpoint this often less one; then it waits for somebody to make room.
MISSES = 3


@dataclass(slots=True)
class Saver:
    """Writes and finds the checkpoints of the run `live`; `run` is its identity."""

    place: Workspace
    subject: TrackedModel
    plan: FreezePlan
    settings: ResolvedHyperparameters
    reporter: Reporter
    run: str
    job_id: str
    seed: int
    live: Run | None = None
    misses: int = 0  # checkpoints in a row that could not be written
    watchman: Watchman = field(init=False)

    def __post_init__(self) -> None:
        self.watchman = Watchman(self._moving())  # of the model as it was loaded

    def save(self, step: int, metrics: Metrics) -> None:
        """Take the state after `step` and write it while training goes on, or first where memory is too short for that.

        A disk that is full costs the checkpoint, not the run; OSError when that happened too often in a row.
        """
        run = self.live
        assert run is not None
        self.judge(step)
        run.watch.before_checkpoint()
        refuse_different_replicas(run.group, self.subject.live(), step=step)
        state = {
            "scaler": run.scaler.state_dict(),
            "history": list(run.progress.history),
            "seconds": run.seconds_before + run.progress.seconds(),
            "witness": run.watch.witness.state_dict(),
            "environment": self._environment(run.device, run.group),
            "patience": run.patience.to_json(),
            "micro_batch_size": run.micro_batch_size,
            "resumed": run.resumed,
            "not_deterministic": list(determinism.relaxed),
        }
        run.writer.wait()  # for its memory, and its place on the disk
        moving = self._moving()
        pieces = {} if run.group.sharded else self._pieces()  # a part of a shard is no piece of the whole
        size = checkpoint.size_of([*moving.values(), *pieces.values()], run.optimizer)
        beside = size <= SPARE * memory.free_host_bytes()
        content = checkpoint.take(
            tensors=moving, optimizer=run.optimizer, state=state, stored=pieces, copied=beside, group=run.group
        )
        if not run.group.leads:
            return
        run.writer.begin(partial(self._write, content, step, metrics, best=run.patience.step))
        if not beside:
            run.writer.wait()

    def judge(self, step: int) -> None:
        """Diverged where what moved is no numbers any more: such a state is neither saved nor a result."""
        assert self.live is not None
        self.watchman.refuse(self.live, step, self._moving())

    def _write(self, content: Content, step: int, metrics: Metrics, *, best: int) -> None:
        """In a thread of its own; the report goes out when the files will survive a power cut."""
        try:
            path = checkpoint.write(
                self.place.checkpoints,
                content,
                step=step,
                run=self.run,
                keep=self.settings.keep_checkpoints,
                best=best,
                job_id=self.job_id,
            )
        except OSError as error:
            self.misses += 1
            self.reporter.event(f"no checkpoint after step {step}: {error}", level="warn", step=step)
            if self.misses >= MISSES:
                raise
            return
        self.misses = 0
        kept = checkpoint.steps_in(self.place.checkpoints)
        self.reporter.report(
            "checkpoint", step=step, path=f"checkpoints/{path.name}", metrics={"step": step, **metrics}, kept=kept
        )

    def find(self, device: torch.device, group: Group) -> SavedCheckpoint | None:
        """The checkpoint to go on from; its thread count is set, since another one would give other bits.

        The first rank says which one it is: to another, a damaged disk may look whole.
        """
        found = self.newest() if group.leads else None
        step = group.follow(found.step if found else None)
        if step is not None and not group.leads:
            found = checkpoint.read(checkpoint.path_of(self.place.checkpoints, step), run=self.run)
        if found is None:
            if checkpoint.steps_in(self.place.checkpoints):
                self.reporter.event("no checkpoint can be used: training begins at the first step again", level="warn")
            return None
        before = found.state["environment"]
        torch.set_num_threads(int(before["threads"]))
        now = self._environment(device, group)
        other = _differing(before, now)
        exact = "" if other else ", exactly as if it had not stopped"
        self.reporter.event(f"goes on after step {found.step}{exact}", step=found.step)
        if other:
            message = f"not exact: {', '.join(other)} differ from before, so the result may differ in its last bits"
            self.reporter.event(message, level="warn", before=before, now=now)
        return found

    def newest(self, *, until: int | None = None) -> SavedCheckpoint | None:
        return checkpoint.newest(
            self.place.checkpoints, run=self.run, live=self._moving(), on_damage=self._tell_damage, until=until
        )

    def resume(self, run: Run, found: SavedCheckpoint) -> None:
        """Make the run what it was after the checkpoint's step; generators last."""
        checkpoint.restore_tensors(found, self._moving())
        run.frozen.at_step(found.step, run.optimizer)
        found.restore_optimizer(run.optimizer)
        run.scaler.load_state_dict(found.state["scaler"])
        run.watch.witness.load_state_dict(found.state["witness"])
        run.progress.history[:] = found.state["history"]
        run.seconds_before = float(found.state["seconds"])
        run.patience = Patience.from_json(found.state["patience"])
        # A batch that was cut smaller where memory ran out adds up in another order.
        run.micro_batch_size = int(found.state["micro_batch_size"])
        differs = _differing(found.state["environment"], self._environment(run.device, run.group))
        run.resumed = [*found.state.get("resumed", ()), {"step": found.step, "differs": differs}]
        determinism.relaxed += [
            each for each in found.state.get("not_deterministic", ()) if each not in determinism.relaxed
        ]
        run.done = found.step
        if not found.restore_random_states(run.group.rank):
            determinism.seed_everything(self.seed + found.step, rank=run.group.rank)

    def restore(self, step: int) -> bool:
        """The weights after `step` again, from its checkpoint; False, and an event, where that cannot be read."""
        try:
            found = checkpoint.read(checkpoint.path_of(self.place.checkpoints, step), run=self.run)
            checkpoint.restore_tensors(found, self._moving())
        except checkpoint.UNREADABLE as error:
            message = f"the best state, after step {step}, cannot be read, so the result is the last one: {error}"
            self.reporter.event(message, level="warn", step=step)
            return False
        return True

    def _environment(self, device: torch.device, group: Group) -> dict[str, Any]:
        config = getattr(self.subject.model, "config", None)
        return determinism.environment(device, attention=getattr(config, "_attn_implementation", None), group=group)

    def _moving(self) -> dict[str, Tensor]:
        """Everything that training may move; under an audit, where anything may, every tensor."""
        policy = self.plan.policy
        live = self.subject.live()
        if not policy.enforce or policy.on_violation == "continue":
            return live
        still = {each.name for each in self.plan.frozen}
        return {name: tensor for name, tensor in live.items() if name not in still}

    def _pieces(self) -> dict[str, Tensor]:
        """What a saved model holds in pieces of a live tensor: those may not be in one stretch of its bytes."""
        moving = self._moving()
        pieces = [each for each in self.subject.stored() if each.part]
        return {each.name: each.tensor for each in pieces if not each.live or each.live in moving}

    def _tell_damage(self, path: Path, why: str) -> None:
        self.reporter.event(f"checkpoint {path.name} is not used: {why}", level="warn")


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in now if now[name] != before.get(name))


def identity(
    order: WorkOrder,
    place: Workspace,
    subject: TrackedModel,
    plan: FreezePlan,
    settings: ResolvedHyperparameters,
    *,
    task: str,
) -> str:
    """What two attempts must share for one to go on with the other's checkpoint."""
    timing = {
        "checkpoint_steps",
        "checkpoint_seconds",
        "keep_checkpoints",
        "max_run_seconds",
        "tensorboard",
    }  # change no bit of the result
    files = {"training": order.data.training, "validation": order.data.validation}
    content: dict[str, Any] = {
        "task": task,
        "model": order.model.to_json(),
        "base": sorted((name, reading.sha256) for name, reading in subject.base.items()),
        "policy": plan.policy.to_json(),
        "settings": {name: value for name, value in settings.to_json().items() if name not in timing},
        "seed": order.seed,
        "data": {key: sha256_file(place.root / path) for key, path in files.items() if path},
        "columns": [order.data.features, order.data.target],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
