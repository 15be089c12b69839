"""The training loop: flat, one optimizer step per turn, everything that may happen in a turn in plain sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from app.errors import DataError
from worker.protocol import Reporter
from worker.trainer import determinism
from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.preference import PreferenceExamples
from worker.trainer.data.sampler import Sampler, sequential
from worker.trainer.freeze.apply import Frozen
from worker.trainer.models.tracked import TrackedModel
from worker.trainer.ranks.gradients import combine
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.training import memory
from worker.trainer.training.caching import Caching
from worker.trainer.training.divergence import refuse_infinite
from worker.trainer.training.hyperparameters import ResolvedHyperparameters
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.training.meters import in_turns, merged
from worker.trainer.training.objectives import Meter, Metrics, Objective, Preference
from worker.trainer.training.patience import Patience
from worker.trainer.training.progress import Progress
from worker.trainer.training.schedule import factor
from worker.trainer.training.stop import Stopped, StopRequest
from worker.trainer.training.writer import Writer
from worker.trainer.witness.observe import whole

T = TypeVar("T")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
EPOCH_SAVE_SECONDS = 10.0  # an epoch shorter than this does not deserve a checkpoint of its own


@dataclass(slots=True, kw_only=True)
class Run:
    """All that a loop touches."""

    model: nn.Module
    frozen: Frozen
    optimizer: Optimizer
    objective: Objective
    training: Examples
    validation: Examples | None
    lines: Sequence[int]  # where in its file each training example stands
    order: Sampler
    settings: ResolvedHyperparameters
    total_steps: int
    device: torch.device
    reporter: Reporter
    progress: Progress
    stop: StopRequest
    scaler: torch.amp.GradScaler
    watch: JobWitness
    save: Callable[[int, Metrics], None]  # takes a checkpoint of the state after this step, which `writer` writes
    judge: Callable[[int], None]  # Diverged where the state after this step is not to be kept
    restore: Callable[[int], bool]  # the weights of that checkpoint again; False where it cannot be read
    patience: Patience
    whole: Callable[[], TrackedModel | None]  # the trained model in one piece, where it is to be exported
    group: Group = ALONE  # the processes that train this together
    writer: Writer = field(default_factory=Writer)  # of checkpoints; entered around `train`
    shaped: Callable[[Batch], Batch] = lambda batch: batch  # as a compiled model wants it
    caching: Caching | None = None  # the frozen prefix's results, where they are kept
    divisible: bool = True  # whether a batch may be cut into smaller micro-batches
    resumed: list[dict[str, Any]] = field(default_factory=list)  # the steps that earlier attempts ended after
    done: int = 0  # steps of earlier attempts, and their seconds
    seconds_before: float = 0.0
    micro_batch_size: int = field(init=False)  # halved where memory runs out
    parameters: list[nn.Parameter] = field(init=False)  # all that the optimizer ever gets
    peaks: list[float] = field(init=False)  # each group's learning rate before its schedule

    def __post_init__(self) -> None:
        self.micro_batch_size = self.settings.micro_batch_size
        self.parameters = self.frozen.parameters()
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a run got to."""

    steps: int
    tokens: int
    metrics: Metrics
    seconds: float


def train(run: Run) -> Ending:
    """Updates from `run.done` + 1 to the last, the witness looking on.

    Raises Stopped after a checkpoint when asked to stop, Diverged when a number is none any more.
    """
    began = saved = run.group.now()
    metrics: Metrics = {}
    evaluated = step = run.done
    run.model.train()

    for step in range(run.done + 1, run.total_steps + 1):
        rate, loss, norm = update(run, step)
        run.watch.after_step()

        epoch = step / run.order.steps_per_epoch
        positions = run.order.positions(step)
        run.progress.step(
            step,
            examples=len(positions),
            tokens=0 if run.training.lengths is None else int(run.training.lengths[positions].sum()),
            epoch=round(epoch, 4),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
        )
        at_epoch_end = step % run.order.steps_per_epoch == 0
        if run.validation is not None and _due(step, run.settings.eval_steps, at_epoch_end):
            metrics = evaluate(run, step)
            evaluated = step
        best = evaluated == step and run.patience.take(step, metrics)
        stop, now = run.group.turn(stop=run.stop.asked)
        due = stop or _save_due(run, step, at_epoch_end, now - saved)
        if best or (step < run.total_steps and due):
            run.save(step, {"train_loss": loss, **{f"valid_{name}": value for name, value in metrics.items()}})
            saved = run.group.now()
        if step < run.total_steps and stop:
            run.writer.wait()
            raise Stopped(step)
        if _out_of_time(run, step, now - began) or _out_of_patience(run, step):
            break

    if run.validation is not None and (evaluated != step or not metrics):
        metrics = evaluate(run, step)
        run.patience.take(step, metrics)
    metrics = back_to_best(run, step, metrics)
    run.judge(step)
    run.watch.at_end()
    seconds = run.seconds_before + run.group.now() - began
    return Ending(steps=step, tokens=_tokens_until(run, step), metrics=metrics, seconds=seconds)


def update(run: Run, step: int) -> tuple[float, float, float | None]:
    """One optimizer step: its learning rate, loss, and gradient norm."""
    rate = set_rate(run, step)
    loss = gradients(run, step)
    norm = clip(run)
    refuse_infinite(run, step, loss, norm)

    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.frozen.at_step(step, run.optimizer)
    return rate, loss, norm


def set_rate(run: Run, step: int) -> float:
    """Give each group its rate for this update; returns the first group's."""
    settings = run.settings
    warmup = (
        settings.warmup_steps if settings.warmup_steps is not None else round(settings.warmup_ratio * run.total_steps)
    )
    scale = factor(step, total=run.total_steps, warmup=warmup, kind=settings.lr_schedule, floor=settings.min_lr_ratio)
    for group, peak in zip(run.optimizer.param_groups, run.peaks, strict=True):
        group["lr"] = peak * scale
    return run.peaks[0] * scale


def gradients(run: Run, step: int) -> float:
    """The step's gradients and its loss; where memory runs out on any rank, from micro-batches of half the size."""
    while True:
        drawn, figures, loss = memory.generators(run.device), "on another rank", None
        batches = micro_batches(run, step)
        weight = max(1, int(run.group.total([sum(batch.weight for batch in batches)])[0]))
        try:
            loss = forward_backward(run, batches, weight)
        except RuntimeError as error:
            if not (memory.ran_out(error) and _can_halve(run)):
                raise
            figures = str(error).splitlines()[0]
        combined = combine(run.group, loss, run.parameters)
        if combined is not None:
            return combined
        # After the except clause, which holds on to the tensors of the failed pass.
        run.optimizer.zero_grad(set_to_none=True)
        memory.give_back(run.device, drawn)
        _halve(run, f"step {step}", figures)


def fitting(run: Run, when: str, work: Callable[[], T]) -> T:
    """What `work` gives; passes without gradients, made again in smaller parts where memory runs out on any rank."""
    while True:
        drawn, figures = memory.generators(run.device), None
        try:
            found = work()
        except RuntimeError as error:
            if not (memory.ran_out(error) and _can_halve(run)):
                raise
            figures = str(error).splitlines()[0]
        if not run.group.any(figures is not None):
            return found
        memory.give_back(run.device, drawn)
        _halve(run, when, figures or "on another rank")


def _halve(run: Run, when: str, figures: str) -> None:
    run.micro_batch_size = -(-run.micro_batch_size // 2)
    message = (
        f"out of memory in {when}: micro-batches have {run.micro_batch_size} examples from here on, a step "
        f"still {run.settings.batch_size} ({figures})"
    )
    run.reporter.event(message, level="warn", micro_batch_size=run.micro_batch_size)


def _can_halve(run: Run) -> bool:
    """Ranks with shards of one model wait for each other inside a pass: there is no pass to be made again."""
    return run.micro_batch_size > 1 and run.divisible and not run.group.sharded


def micro_batches(run: Run, step: int) -> list[Batch]:
    """This rank's share of the step's examples, `micro_batch_size` at a time; what does not count has no weight."""
    parts = run.group.passes(run.order.positions(step), run.micro_batch_size)
    batches = [(run.training.batch(positions), counts) for positions, counts in parts]
    return [batch if counts else replace(batch, weight=0) for batch, counts in batches]


def forward_backward(run: Run, batches: list[Batch], weight: int) -> float:
    """Gradients of the mean loss over a step of `weight`, however it was cut; returns this rank's part of that mean."""
    return _deterministic(run, lambda: _accumulate(run, batches, weight))


def _accumulate(run: Run, batches: list[Batch], weight: int) -> float:
    run.optimizer.zero_grad(set_to_none=True)
    total: Tensor | None = None
    for batch in batches:
        summed = _forward(run, batch.to(run.device), run.training)[0]  # outputs, of a vocabulary's width, are let go
        mean = summed / weight if batch.weight else summed * 0.0
        run.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        total = mean.detach() if total is None else total + mean.detach()
    return 0.0 if total is None else float(total.item())


def clip(run: Run) -> float | None:
    """Scale the gradients down to `max_grad_norm`; the norm before, or None where nothing is clipped."""
    if run.settings.max_grad_norm is None:
        return None
    run.scaler.unscale_(run.optimizer)
    return float(whole(nn.utils.clip_grad_norm_(run.parameters, run.settings.max_grad_norm)).item())


@torch.no_grad()
def probe(run: Run) -> Tensor:
    """One forward pass over two examples, so that data that does not fit the model is refused as what it is."""
    batch = run.training.batch(np.arange(min(2, len(run.training)))).to(run.device)
    run.model.eval()
    try:
        _, outputs = _deterministic(run, lambda: compute(run, batch))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if memory.ran_out(error):
            raise
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.inputs.items())
        message = f"the model does not accept this data ({shapes}, targets {tuple(batch.targets.shape)}): {error}"
        raise DataError(message, param="training_file", code="data_does_not_fit_model") from error
    run.model.train()
    return outputs


@torch.no_grad()
def ask_reference(run: Run, objective: Preference) -> None:
    """Fill in what the base thinks of each answer. Call while the model still is the base."""
    run.model.eval()
    for examples in (run.training, run.validation):
        if isinstance(examples, PreferenceExamples):
            examples.reference = fitting(run, "the reference's pass", partial(_asked, run, objective, examples))
    run.model.train()


def _asked(run: Run, objective: Preference, examples: PreferenceExamples) -> Tensor:
    found = []
    for positions in sequential(len(examples), run.micro_batch_size):
        batch = examples.batch(positions).to(run.device)
        with autocast(run):
            found.append(objective.log_probabilities(run.model, batch).cpu())
    return torch.cat(found)


@torch.no_grad()
def evaluate(run: Run, step: int) -> Metrics:
    """Loss and the task's metrics over the validation examples, with dropout off; reported."""
    run.model.eval()
    meter, seen = fitting(run, f"the evaluation after step {step}", partial(_look, run))
    run.model.train()
    metrics = _measured(run, meter, seen)
    run.progress.evaluation(step, metrics)
    return metrics


def _look(run: Run) -> tuple[Meter, list[tuple[float, int]]]:
    assert run.validation is not None
    meter, seen = run.objective.meter(), []
    for positions, counts in run.group.deal(sequential(len(run.validation), run.micro_batch_size)):
        batch = run.validation.batch(positions).to(run.device)
        summed, outputs = _forward(run, batch, run.validation)
        if counts:
            meter.add(outputs, batch)
            seen.append((float(summed.item()), batch.weight))
    return meter, seen


def _measured(run: Run, meter: Meter, seen: list[tuple[float, int]]) -> Metrics:
    """Over all that the ranks have seen, batch by batch in the order of the data."""
    batches = in_turns(run.group.gather(seen))
    loss = sum(total for total, _ in batches) / max(1, sum(weight for _, weight in batches))
    return {"loss": loss, **merged(run.group, meter).metrics()}


def back_to_best(run: Run, step: int, metrics: Metrics) -> Metrics:
    """With early stopping, the weights after the best evaluation, and its metrics; else all stays as it is."""
    run.writer.wait()
    run.group.now()  # the others do not read before the first rank has written
    best = run.patience
    if best.limit is None or best.step in (0, step) or not run.restore(best.step):
        return metrics
    message = f"the result is the state after step {best.step}, which had the lowest validation loss"
    run.reporter.event(message, step=best.step)
    return best.metrics


def _forward(run: Run, batch: Batch, examples: Examples) -> tuple[Tensor, Tensor]:
    if run.caching is None:
        return compute(run, run.shaped(batch))
    with run.caching.serving(batch, examples):
        return compute(run, batch)


def compute(run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """The objective's loss and outputs for a batch, in the run's precision."""
    with autocast(run):
        return run.objective.loss(run.model, batch)


def _deterministic(run: Run, compute: Callable[[], T]) -> T:
    """An operation without a deterministic kernel is told, and let through: a job should train, if not to the bit."""
    try:
        return compute()
    except RuntimeError as error:
        if not determinism.relax(error):
            raise
        message = f"not deterministic, so a resumed run may differ in its last bits: {str(error).splitlines()[0]}"
        run.reporter.event(message, level="warn")
        return compute()


def autocast(run: Run) -> torch.autocast:
    dtype = AUTOCAST.get(run.settings.precision)
    return torch.autocast(run.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _due(step: int, interval: int | None, otherwise: bool) -> bool:
    return step % interval == 0 if interval else otherwise


def _save_due(run: Run, step: int, at_epoch_end: bool, since: float) -> bool:
    late = since >= run.settings.checkpoint_seconds or (at_epoch_end and since >= EPOCH_SAVE_SECONDS)
    return _due(step, run.settings.checkpoint_steps, late)


def _out_of_time(run: Run, step: int, seconds: float) -> bool:
    limit = run.settings.max_run_seconds
    if limit is None or run.seconds_before + seconds < limit or step == run.total_steps:
        return False
    message = f"training ends after step {step} of {run.total_steps}: max_run_seconds is {limit:g}"
    run.reporter.event(message, level="warn", step=step)
    return True


def _out_of_patience(run: Run, step: int) -> bool:
    if not run.patience.over or step == run.total_steps:
        return False
    message = (
        f"training ends after step {step} of {run.total_steps}: {run.patience.misses} evaluations in a row had no "
        f"lower loss than that after step {run.patience.step}"
    )
    run.reporter.event(message, step=step)
    return True


def _tokens_until(run: Run, step: int) -> int:
    """Tokens that passed through training, without padding."""
    lengths = run.training.lengths
    if lengths is None:
        return 0
    epochs, rest = divmod(step, run.order.steps_per_epoch)
    base = epochs * run.order.steps_per_epoch
    return epochs * int(lengths.sum()) + sum(int(lengths[run.order.positions(base + k + 1)].sum()) for k in range(rest))
