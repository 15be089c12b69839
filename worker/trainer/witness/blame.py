"""Replays a stretch of training under the write-guard: names the operation that moved a frozen tensor, or why not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from worker.trainer.witness.guard import WriteGuard, memory
from worker.trainer.witness.report import Violation


@dataclass(frozen=True, slots=True)
class Finding:
    """`operation` and `where` are None when the replay could not show them; `explanation` is for people."""

    name: str
    step: int | None
    operation: str | None
    where: str | None
    explanation: str


def replay_under_guard(
    replay: Callable[[], Any],
    *,
    names: Iterable[str],
    tensor: Callable[[str], Tensor | None],
    drifted: Callable[[str], bool],
    start: int,
) -> list[Finding]:
    """Run `replay`, which must restore the state after step `start` and train on from there, and explain each name.

    `tensor` gives a name's live tensor, `drifted` says whether its bytes are other than they should be.
    """
    names = list(names)
    before = {name: found for name in names if (found := tensor(name)) is not None}
    places = {name: memory(found) for name, found in before.items()}
    guard = WriteGuard(before, drifted)
    guard.step = start + 1
    counter = register_optimizer_step_post_hook(lambda *_: guard.next_step())
    try:
        with guard:
            replay()
    finally:
        counter.remove()
    return [_explain(name, guard, before, places, tensor(name), drifted) for name in names]


def explained(violation: Violation, finding: Finding) -> Violation:
    """With what a replay has found; one that it dates within the known bounds is dated so."""
    if finding.operation is None:
        return replace(violation, explanation=finding.explanation)
    step = finding.step or 0
    known = violation.last_good_step < step <= violation.first_bad_step
    dated = replace(violation, last_good_step=step - 1, first_bad_step=step) if known else violation
    return replace(dated, operation=f"{finding.operation} at {finding.where}")


def _explain(
    name: str,
    guard: WriteGuard,
    before: dict[str, Tensor],
    places: dict[str, tuple[int, int]],
    after: Tensor | None,
    drifted: Callable[[str], bool],
) -> Finding:
    write = guard.writes.get(name)
    if write is not None:
        return Finding(name, write.step, write.operation, write.where, f"{write} in step {write.step}")
    if after is None:
        return Finding(name, None, None, None, "the model no longer has a tensor of this name")
    if not drifted(name):
        return Finding(name, None, None, None, "the replay did not show it: the bytes stayed as they should be")
    if after is not before.get(name) or memory(after) != places[name]:
        explanation = (
            "another tensor was put in its place (an assignment, `.data =`, a cast, load_state_dict(assign=True))"
        )
        return Finding(name, None, None, None, explanation)
    explanation = "written from outside torch's dispatcher (numpy, ctypes, a custom operator, another process)"
    return Finding(name, None, None, None, explanation)
