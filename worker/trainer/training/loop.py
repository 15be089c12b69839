"""The training loop: one optimizer step per turn, and whatever else a turn may bring."""

from __future__ import annotations

from dataclasses import dataclass

from worker.protocol import Reporter
from worker.trainer.training import quick_step
from worker.trainer.training.checkpoints import Checkpoints
from worker.trainer.training.divergence import refuse_divergence
from worker.trainer.training.evaluation import evaluate
from worker.trainer.training.job import TrainingJob
from worker.trainer.training.job_witness import JobWitness
from worker.trainer.training.objectives import Metrics
from worker.trainer.training.passes import Passes
from worker.trainer.training.progress import TrainingProgress
from worker.trainer.training.schedule import factor
from worker.trainer.training.state import TrainingState
from worker.trainer.training.stop import StopRequest, TrainingStopped

EPOCH_SAVE_SECONDS = 10.0  # the end of a shorter epoch is not worth a checkpoint


@dataclass(slots=True, kw_only=True)
class Run:
    """A job that is ready for its next step: what is fixed, what moves, and the parts that serve the loop."""

    job: TrainingJob
    state: TrainingState
    passes: Passes
    witness: JobWitness
    checkpoints: Checkpoints
    progress: TrainingProgress
    reporter: Reporter
    stop: StopRequest


@dataclass(frozen=True, slots=True)
class Ending:
    """How far a run got, and the metrics of the state that it ended with."""

    steps: int
    tokens: int
    metrics: Metrics
    seconds: float
    result_step: int  # the step whose state the result is: an earlier one where early stopping went back to it


def train(run: Run) -> Ending:
    """Train from the first step not yet made to the last one.

    TrainingStopped, after a checkpoint, when a stop is requested; Diverged when loss, gradient or weights are not
    finite any more; FrozenTensorChanged when a frozen tensor moved and the policy says abort.
    """
    job, state = run.job, run.state
    began = saved = job.group.now()
    metrics: Metrics = {}
    evaluated = step = state.steps_before
    state.model.train()

    for step in range(state.steps_before + 1, job.total_steps + 1):
        rate, loss, norm = update(run, step)
        run.witness.after_step()
        run.progress.step(step, job, loss=loss, learning_rate=rate, grad_norm=norm)

        if _evaluation_due(job, step):
            metrics, evaluated = _evaluate(run, step), step
        best = evaluated == step and state.patience.take(step, metrics)

        stop, now = job.group.turn(stop=run.stop.requested)
        last = step == job.total_steps
        until = step == job.order.until
        if best or until or (not last and (stop or _checkpoint_due(job, step, now - saved))):
            figures = {"train_loss": loss, **_validation(metrics)}
            run.checkpoints.save(state, step, figures, witness=run.witness, progress=run.progress)
            saved = job.group.now()
        if stop and not last:
            run.checkpoints.wait()
            raise TrainingStopped(step)
        if until or _out_of_time(run, step, now - began) or _out_of_patience(run, step):
            break

    if job.validation is not None and (evaluated != step or not metrics):
        metrics = _evaluate(run, step)
        state.patience.take(step, metrics)
    metrics, result_step = _back_to_best(run, step, metrics)
    run.checkpoints.refuse_divergence(step)
    run.witness.at_end()
    seconds = state.seconds_before + job.group.now() - began
    tokens = _tokens_until(job, step)
    return Ending(steps=step, tokens=tokens, metrics=metrics, seconds=seconds, result_step=result_step)


def update(run: Run, step: int) -> tuple[float, float, float | None]:
    """One optimizer step: its learning rate, its loss, and the norm of its gradient (None without clipping)."""
    state = run.state
    rate = set_rate(run.job, state, step)
    loss = run.passes.gradients(step)

    with state.masters.updating():
        norm = clip(state, run.job.settings.max_grad_norm)
        refuse_divergence(run.job, state, step, loss, norm)
        if state.scaler.is_enabled():
            state.scaler.step(state.optimizer)
            state.scaler.update()
        else:
            quick_step.step(state.optimizer)
        state.clear_gradients()
    state.frozen.at_step(step, state.optimizer)
    return rate, loss, norm


def set_rate(job: TrainingJob, state: TrainingState, step: int) -> float:
    """Give each group its learning rate for this update; returns the first group's."""
    settings, warmup = job.settings, job.settings.warmup_steps
    if warmup is None:
        warmup = round(settings.warmup_ratio * job.total_steps)
    scale = factor(step, total=job.total_steps, warmup=warmup, kind=settings.lr_schedule, floor=settings.min_lr_ratio)
    for group, peak in zip(state.optimizer.param_groups, state.peak_rates, strict=True):
        group["lr"] = peak * scale
    return state.peak_rates[0] * scale


def clip(state: TrainingState, max_norm: float | None) -> float | None:
    """Scale the gradients down to `max_norm` and return their norm before that; None where nothing is clipped."""
    if max_norm is None:
        return None
    state.scaler.unscale_(state.optimizer)
    return quick_step.clip(state.parameters, max_norm)


def _evaluate(run: Run, step: int) -> Metrics:
    metrics = evaluate(run.passes, step)
    run.progress.evaluation(step, metrics)
    return metrics


def _validation(metrics: Metrics) -> Metrics:
    return {f"valid_{name}": value for name, value in metrics.items()}


def _evaluation_due(job: TrainingJob, step: int) -> bool:
    if job.validation is None:
        return False
    interval = job.settings.eval_steps
    return step % interval == 0 if interval else job.at_epoch_end(step)


def _checkpoint_due(job: TrainingJob, step: int, since: float) -> bool:
    """`since` is the seconds since the last checkpoint."""
    settings = job.settings
    if settings.checkpoint_steps:
        return step % settings.checkpoint_steps == 0
    return since >= settings.checkpoint_seconds or (job.at_epoch_end(step) and since >= EPOCH_SAVE_SECONDS)


def _out_of_time(run: Run, step: int, seconds: float) -> bool:
    limit, total = run.job.settings.max_run_seconds, run.job.total_steps
    if limit is None or run.state.seconds_before + seconds < limit or step == total:
        return False
    run.reporter.event(
        f"training ends after step {step} of {total}: max_run_seconds is {limit:g}", level="warn", step=step
    )
    return True


def _out_of_patience(run: Run, step: int) -> bool:
    patience, total = run.state.patience, run.job.total_steps
    if not patience.over or step == total:
        return False
    message = (
        f"training ends after step {step} of {total}: {patience.misses} evaluations in a row had no "
        f"lower loss than that after step {patience.step}"
    )
    run.reporter.event(message, step=step)
    return True


def _back_to_best(run: Run, step: int, metrics: Metrics) -> tuple[Metrics, int]:
    """With early stopping, load the weights of the best evaluation. Returns the result's metrics and its step."""
    run.checkpoints.wait()
    run.job.group.now()  # other ranks must not read before the first one has written
    best = run.state.patience
    if best.limit is None or best.step in (0, step) or not run.checkpoints.restore_weights(best.step):
        return metrics, step
    message = f"the result is the state after step {best.step}, which had the lowest validation loss"
    run.reporter.event(message, step=best.step)
    return best.metrics, best.step


def _tokens_until(job: TrainingJob, step: int) -> int:
    """Tokens that passed through training in this many steps, without padding."""
    lengths = job.training.lengths
    if lengths is None:
        return 0
    sampler = job.sampler
    epochs, rest = divmod(step, sampler.steps_per_epoch)
    first = epochs * sampler.steps_per_epoch + 1
    begun = sum(int(lengths[sampler.positions(number)].sum()) for number in range(first, first + rest))
    return epochs * int(lengths.sum()) + begun
