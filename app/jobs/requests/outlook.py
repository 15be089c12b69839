"""What a job would do, for a form that is being filled in: the plan, and what freezing saves."""

from dataclasses import dataclass, replace
from typing import Final

from app.freeze.policy import Policy
from app.freeze.preview import Preview
from app.jobs.requests import estimate
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.dry_run import READ_BYTES, DryRun, answer
from app.jobs.requests.length import length_of
from app.jobs.requests.schemas import JobCreate
from app.jobs.requests.submission import examine

#: Written as a rule: a policy without any is one that an adapter replaces by its own.
EVERYTHING: Final = Policy.from_json({"rules": [{"id": "all", "action": "train", "select": {"name": "**"}}]})


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of the job, and the same if everything trained; None where it is not known."""

    here: float | None
    trained: float | None

    @property
    def saved(self) -> float | None:
        """The share that is saved, from 0 to 1."""
        if self.here is None or not self.trained:
            return None
        return max(0.0, 1 - self.here / self.trained)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A dry run, the plan by tensors where the model's are known, and memory (bytes) and time (seconds) compared."""

    dry_run: DryRun
    plan: Preview | None
    memory: Compared
    seconds: Compared


def outlook(context: SubmissionContext, request: JobCreate) -> Outlook:
    """Raises what a dry run raises."""
    checked = examine(context, request, read_bytes=READ_BYTES)
    known = estimate.planned(checked)
    size = length_of(checked.examples, checked.hyperparameters)
    trained = replace(checked, policy=EVERYTHING)
    both = [estimate.memory(each, context.settings, size)["total"] for each in (checked, trained)]
    times = [estimate.computed_seconds(each, context.settings, size) if size else None for each in (checked, trained)]
    return Outlook(answer(context, request, checked), known[1] if known else None, Compared(*both), Compared(*times))
