"""The frozen prefix of a model, computed once for each example and served from then on.

`hyperparameters.prefix_cache` decides whether; docs/prefix-cache.md says what its values mean and why.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from worker.protocol import Reporter
from worker.trainer.data.batch import Batch, Examples
from worker.trainer.data.sampler import Positions
from worker.trainer.prefix import reports
from worker.trainer.prefix.cut import UncuttableError
from worker.trainer.prefix.kept_results import KeptResults
from worker.trainer.prefix.serving import Prefix
from worker.trainer.training import prefix_conditions
from worker.trainer.training.prefix_filling import DiskSpaceError, fill
from worker.trainer.training.prefix_request import PrefixRequest
from worker.trainer.training.prefix_trial import refuse_other_results
from worker.trainer.training.stop import StopRequest
from worker.trainer.witness.observe import observe


@dataclass(slots=True, kw_only=True)
class PrefixCache:
    """A prefix in use. A part of the data without kept results has them computed for each batch: equal, but slower.

    `names` are the tensors that the prefix is made of, `digests` their SHA-256 when its results were computed.
    """

    request: PrefixRequest
    prefix: Prefix
    names: tuple[str, ...]
    digests: dict[str, str]
    reporter: Reporter
    results: dict[str, KeptResults] = field(default_factory=dict)
    seconds: float = 0.0  # that computing the results took

    def batch(self, positions: Positions, examples: Examples) -> Batch:
        """The examples at these positions. Their inputs hold nothing where a pass from kept results reads none."""
        if self.prefix.reads_inputs or self._part_of(examples) not in self.results:
            return examples.batch(positions)
        return examples.outline(positions)

    def serving(self, batch: Batch, examples: Examples) -> AbstractContextManager[None]:
        """Inside, a pass over this batch starts from the prefix's results, which this call fetches or computes."""
        assert batch.rows is not None
        part = self._part_of(examples)
        if part in self.results:
            stored = self.results[part].get(batch.rows, batch.width)
            values = stored if self.request.device.type == "cpu" else [each.to(self.request.device) for each in stored]
        else:
            values = self.prefix.capture(lambda: self.request.compute(batch))
        return self.prefix.served(values, rows=len(batch.rows), width=batch.width)

    def _part_of(self, examples: Examples) -> str | None:
        return next((name for name, part in self.request.parts.items() if part is examples), None)

    def changed(self) -> list[str]:
        """Names of the prefix's tensors that differ from when its results were computed."""
        now = observe(self.request.model, self.names)
        return sorted(name for name in self.names if now[name] != self.digests[name])

    def close(self) -> None:
        """Compare the prefix's tensors once more, report the outcome, and give the model its own forwards back."""
        changed = self.changed()
        self.prefix.remove()
        if changed:
            message = (
                f"the frozen prefix changed while its results were in use ({', '.join(changed[:5])}): training went on "
                "from the results of before"
            )
            self.reporter.event(message, level="error", tensors=changed[:100])
        else:
            message = f"the frozen prefix is unchanged since its results were computed ({len(self.names)} tensors)"
            self.reporter.event(message)


def begin(request: PrefixRequest, folder: Path, reporter: Reporter, stop: StopRequest) -> PrefixCache | None:
    """The prefix with its results for every example, in memory or in `folder`; None, and an event, if it cannot be.

    With `prefix_cache: true` a prefix is used even if its results do not fit on the disk, so that the result of the
    run does not depend on the disk.
    """
    cache = prepare(request, reporter)
    if cache is None:
        return None
    try:
        cache.results, cache.seconds = fill(request, cache.prefix, cache.digests, folder, reporter, stop)
    except DiskSpaceError as error:
        reporter.event(f"the frozen prefix's results are not kept: {error}", level=error.level)
        reports.off(reporter, f"its results are not kept: {error}")
        if request.setting == "auto":
            cache.prefix.remove()
            return None
    return cache


def prepare(request: PrefixRequest, reporter: Reporter) -> PrefixCache | None:
    """The prefix without results, or None with the reason in an event. It depends on model, data and plan alone."""
    if request.setting is False:
        reports.off(reporter, "prefix_cache is false")
        return None
    if request.setting == "auto" and not any(decision.kind == "parameter" for decision in request.plan.frozen):
        reports.off(reporter, prefix_conditions.NO_PARAMETER)
        return None
    try:
        prefix_conditions.refuse_conditions(request)
        cut, still = prefix_conditions.find_cut(request)
        prefix = Prefix(request.model, cut)
        try:
            names = prefix_conditions.tensor_names(request, cut, still)
            digests = observe(request.model, names)
            refuse_other_results(request, prefix)
        except BaseException:
            prefix.remove()
            raise
    except UncuttableError as reason:
        level = "warn" if request.setting is True else "info"
        reporter.event(f"the frozen prefix is computed anew at every step: {reason}", level=level)
        reports.off(reporter, str(reason))
        return None
    return PrefixCache(request=request, prefix=prefix, names=names, digests=digests, reporter=reporter)
