"""Reads a trainer's reports as they are written, and turns them into progress, events and curves of the job."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from app.jobs.queue.attempt import AttemptUpdates
from app.jobs.queue.event_log import NewEvent
from app.jsontypes import JsonDict
from worker.protocol import Report, read_reports

Level = Literal["info", "warn", "error"]

#: Seconds between events about steps; every reported step is on the curve all the same.
EVENT_SECONDS: Final = 1.0
#: Columns of the curve that a step's report brings along.
CURVE: Final = ("loss", "learning_rate", "grad_norm", "examples_per_second", "tokens_per_second", "seconds")
#: What a step's report says of the run as it is now, for the job's progress.
NOW: Final = ("examples_per_second", "tokens_per_second", "steps_per_second", "witness_share")
MESSAGE_CHARACTERS: Final = 4000
LEVELS: Final[dict[str, Level]] = {"info": "info", "warn": "warn", "error": "error"}


class ReportReader:
    """Reads one attempt's reports. `failed` or `done` is the trainer's last report once it has been read."""

    def __init__(self, path: Path) -> None:
        self.failed: Report | None = None
        self.done: Report | None = None
        self.violations: list[JsonDict] = []
        self.stepped = False
        self.on_checkpoint: Callable[[Report], None] = lambda report: None
        self.on_stage: Callable[[str], None] = lambda stage: None
        self.heard_at = time.monotonic()
        self._path = path
        self._offset = 0
        self._total: int | None = None
        self._epochs: float | None = None
        self._first: tuple[int, float] | None = None
        self._event_at = float("-inf")
        self._stage = ""
        self._position = (0, 0.0)  # step and epoch
        self._prefix_cache: JsonDict | None = None

    def read(self) -> AttemptUpdates:
        """What was reported since the last call, as changes to the job."""
        reports, self._offset = read_reports(self._path, self._offset)
        news = AttemptUpdates()
        for report in reports:
            self.heard_at = time.monotonic()
            self._take(_storable(report), news)
        return news

    def _take(self, report: Report, news: AttemptUpdates) -> None:
        take = getattr(self, f"_take_{report['type']}", None)
        # An unknown type comes from a newer trainer, and is not needed to judge its result.
        if take is not None:
            take(report, news)

    def _take_stage(self, report: Report, news: AttemptUpdates) -> None:
        if report["stage"] == self._stage:
            return  # a first process, which made the base, has reported it already
        self._stage = str(report["stage"])
        self.on_stage(self._stage)
        news.events.append(NewEvent(f"Stage: {report['stage']}", data={"stage": report["stage"]}))

    def _take_plan(self, report: Report, news: AttemptUpdates) -> None:
        self._total, self._epochs = report.get("total_steps"), report.get("epochs")
        news.freeze_plan = report["counts"]
        news.hyperparameters = report.get("settled")
        frozen, trainable = report["counts"]["frozen"], report["counts"]["trainable"]
        message = f"Tensors frozen: {frozen['tensors']} ({frozen['bytes']} bytes); trained: {trainable['tensors']}"
        news.events.append(NewEvent(message, data=report["counts"]))
        news.events += [NewEvent(str(warning), level="warn") for warning in report.get("warnings", ())]
        step = int(report.get("step") or 0)  # of the checkpoint that it goes on from
        epoch = round(step / self._total * (self._epochs or 0.0), 4) if self._total else 0.0
        news.progress = self._progress(step, epoch)

    def _take_prefix_cache(self, report: Report, news: AttemptUpdates) -> None:
        self._prefix_cache = {name: value for name, value in report.items() if name != "type"}
        news.progress = self._progress(*self._position)

    def _take_step(self, report: Report, news: AttemptUpdates) -> None:
        step, epoch = int(report["step"]), float(report.get("epoch") or 0.0)
        self._first = self._first or (step, time.monotonic())
        values = {name: report[name] for name in CURVE if report.get(name) is not None}
        news.metrics.append((step, "train", values))
        now = {name: report[name] for name in NOW if report.get(name) is not None}
        news.progress = self._progress(step, epoch) | now
        at = time.monotonic()
        if not self.stepped or step == self._total or at - self._event_at >= EVENT_SECONDS:
            self._event_at = at
            message = f"Step {step}/{self._total}: training loss={_short(report.get('loss'))}"
            news.events.append(NewEvent(message, type="metrics", data={"step": step, "epoch": epoch, **values}))
        self.stepped = True

    def _take_evaluation(self, report: Report, news: AttemptUpdates) -> None:
        step, metrics = int(report["step"]), dict(report["metrics"])
        news.metrics.append((step, "valid", metrics))
        shown = ", ".join(f"{name}={_short(value)}" for name, value in metrics.items())
        news.events.append(
            NewEvent(f"Evaluation after step {step}: {shown}", type="metrics", data={"step": step, **metrics})
        )

    def _take_event(self, report: Report, news: AttemptUpdates) -> None:
        message = str(report["message"])[:MESSAGE_CHARACTERS]
        level = LEVELS.get(str(report.get("level")), "info")
        news.events.append(NewEvent(message, level=level, data=report.get("data") or None))

    def _take_checkpoint(self, report: Report, news: AttemptUpdates) -> None:
        self.on_checkpoint(report)

    def _take_violation(self, report: Report, news: AttemptUpdates) -> None:
        """Reported when it is found, and again with its cause, or why that is unknown, after a replay."""
        violation = {name: value for name, value in report.items() if name != "type"}
        same = (violation.get("name"), violation.get("rank"))
        self.violations = [each for each in self.violations if (each.get("name"), each.get("rank")) != same]
        self.violations.append(violation)
        cause = f", by {by}" if (by := report.get("operation")) else ""
        cause = cause or (f"; the operation was not found: {why}" if (why := report.get("explanation")) else "")
        where = f" on rank {report['rank']}" if report.get("rank") is not None else ""
        message = f"Frozen tensor {report['name']} changed at step {report.get('first_bad_step')}{where}{cause}"
        news.events.append(NewEvent(message, level="error", data=violation))

    def _take_failed(self, report: Report, news: AttemptUpdates) -> None:
        """The report without a rank is the job's; one rank's own counts where there is no other."""
        if self.failed is None or report.get("rank") is None:
            self.failed = report

    def _take_done(self, report: Report, news: AttemptUpdates) -> None:
        self.done = report

    def _progress(self, step: int, epoch: float) -> JsonDict:
        self._position = (step, epoch)
        percent = round(100 * step / self._total, 1) if self._total else None
        eta = self._eta(step)
        return {
            "step": step,
            "total_steps": self._total,
            "epoch": epoch,
            "percent": percent,
            "eta_seconds": eta,
            "prefix_cache": self._prefix_cache,
        } | ({"estimated_finish": int(time.time()) + eta} if eta is not None else {})

    def _eta(self, step: int) -> int | None:
        """Seconds left at the mean speed since this attempt's first report."""
        if self._first is None or not self._total or step <= self._first[0]:
            return None
        seconds = (time.monotonic() - self._first[1]) / (step - self._first[0])
        return round(seconds * (self._total - step))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def _storable(value: Any) -> Any:
    """PostgreSQL stores neither the character NUL nor half of a surrogate pair."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value
