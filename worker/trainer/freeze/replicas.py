"""Refuses the parts of a policy that DistributedDataParallel would break.

Its reducer averages the gradients of the parameters that it found when it was made. Trainable rows are not among them,
so each process would train its own; the same goes for a tensor that thaws later. A tensor that freezes later or is
read through `detach()` has no gradient, and the reducer waits for it. With `param_group`, the reducer puts each dropped
gradient back. (Measured with two processes: tests/worker/trainer/freeze/test_replicas.py.)
"""

from torch.nn.parallel import DistributedDataParallel

from app.errors import PolicyError
from app.freeze.plan import Decision, FreezePlan


def refuse_replicas(model: DistributedDataParallel, plan: FreezePlan) -> None:
    """Raises PolicyError for the first decision that replicas would break."""
    for decision in plan.decisions:
        reason = _reason(decision, unused=bool(model.find_unused_parameters)) if decision.kind == "parameter" else None
        if reason is not None:
            raise PolicyError(
                f"'{decision.name}' (rule '{decision.rule}') {reason} under DistributedDataParallel; freeze it as a"
                " whole, for the whole run, by requires_grad, or use one device",
                param="freeze_policy",
            )


def _reason(decision: Decision, *, unused: bool) -> str | None:
    if decision.action == "split":
        return "has trainable rows, which every process would train by itself"
    if decision.scheduled:
        return "is frozen for some steps only, which its reducer cannot follow"
    if decision.action == "freeze" and decision.mechanism == "param_group":
        return "would get its gradients back from the reducer"
    if decision.action == "freeze" and decision.mechanism == "detach" and not unused:
        return "is detached, and without find_unused_parameters=True the reducer waits for its gradient"
    return None
