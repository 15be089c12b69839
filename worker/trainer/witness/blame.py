"""Replays steps under the write-guard, to name the operation that moved a frozen tensor, or why it is not known."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from worker.trainer.witness.guard import WriteGuard, memory
from worker.trainer.witness.report import Violation


@dataclass(frozen=True, slots=True)
class ReplayFinding:
    """The cause of one violation: `operation` at line `where`, both None if the replay did not show them.

    `explanation` says the same in a sentence, or why the cause is not known.
    """

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
) -> list[ReplayFinding]:
    """Run `replay`, which must restore the state after step `start` and train on from there, and explain each name.

    `tensor` gives a name's live tensor, `drifted` says whether its bytes are other than they should be.
    """
    names = list(names)
    before = {name: live for name in names if (live := tensor(name)) is not None}
    addresses = {name: memory(live) for name, live in before.items()}

    guard = WriteGuard(before, drifted)
    guard.step = start + 1
    counter = register_optimizer_step_post_hook(lambda *_: guard.next_step())
    try:
        with guard:
            replay()
    finally:
        counter.remove()
    return [_explain(name, guard, before, addresses, tensor(name), drifted) for name in names]


def explained(violation: Violation, finding: ReplayFinding) -> Violation:
    """The violation with the operation that a replay found, and its step if that is within the known bounds."""
    if finding.operation is None:
        return replace(violation, explanation=finding.explanation)
    step = finding.step or 0
    within = violation.last_good_step < step <= violation.first_bad_step
    dated = replace(violation, last_good_step=step - 1, first_bad_step=step) if within else violation
    return replace(dated, operation=f"{finding.operation} at {finding.where}")


def _explain(
    name: str,
    guard: WriteGuard,
    before: dict[str, Tensor],
    addresses: dict[str, tuple[int, int]],
    after: Tensor | None,
    drifted: Callable[[str], bool],
) -> ReplayFinding:
    write = guard.writes.get(name)
    if write is not None:
        return ReplayFinding(name, write.step, write.operation, write.where, f"{write} in step {write.step}")
    if after is None:
        return ReplayFinding(name, None, None, None, "the model no longer has a tensor of this name")
    if not drifted(name):
        return ReplayFinding(name, None, None, None, "the replay did not show it: the bytes stayed as they should be")
    if after is not before.get(name) or memory(after) != addresses[name]:
        ways = "an assignment, `.data =`, a cast, load_state_dict(assign=True)"
        return ReplayFinding(name, None, None, None, f"it was replaced by another tensor ({ways})")
    explanation = "written from outside torch's dispatcher (numpy, ctypes, a custom operator, another process)"
    return ReplayFinding(name, None, None, None, explanation)
