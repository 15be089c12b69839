"""Reports of a trainer become progress, curves and events."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.jobs.queue.attempt import AttemptUpdates
from worker.protocol import Reporter
from worker.supervisor.reports import ReportReader

COUNTS = {
    "frozen": {"tensors": 1, "elements": 10, "bytes": 40},
    "trainable": {"tensors": 1, "elements": 1, "bytes": 4},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reports.jsonl"


def told(path: Path, *each: dict[str, Any]) -> tuple[ReportReader, AttemptUpdates]:
    """A reader, and what it made of these reports."""
    with Reporter(path) as reporter:
        for report in map(dict, each):
            reporter.report(report.pop("type"), **report)
    reports = ReportReader(path)
    return reports, reports.read()


def test_nothing_written_is_no_news(path: Path) -> None:
    """Before the trainer has opened its file there is nothing to say."""
    assert not ReportReader(path).read()


def test_news_come_once(path: Path) -> None:
    """A second look brings only what is new."""
    reports, news = told(path, {"type": "stage", "stage": "loading"})
    assert [note.message for note in news.events] == ["Stage: loading"]
    assert not reports.read()


def test_plan_gives_counts_and_warnings(path: Path) -> None:
    """Counts and settled hyperparameters go to the job's row, warnings become events that stand out."""
    plan = {"type": "plan", "counts": COUNTS, "total_steps": 4, "epochs": 2, "warnings": ["careful"]}
    _, news = told(path, plan | {"settled": {"n_epochs": 3}})
    assert news.freeze_plan == COUNTS
    assert news.hyperparameters == {"n_epochs": 3}
    assert [(note.message, note.level) for note in news.events if note.level == "warn"] == [("careful", "warn")]
    start = {"step": 0, "total_steps": 4, "epoch": 0.0, "percent": 0.0, "eta_seconds": None, "prefix_cache": None}
    assert news.progress == start


def test_resumed_run_begins_where_it_goes_on(path: Path) -> None:
    """Whoever polls does not see it fall back to the start."""
    plan = {"type": "plan", "counts": COUNTS, "total_steps": 4, "epochs": 2, "step": 3}
    _, news = told(path, plan)
    assert news.progress is not None
    assert (news.progress["step"], news.progress["epoch"], news.progress["percent"]) == (3, 1.5, 75.0)


def test_speed_and_the_witness_part_are_of_the_moment(path: Path) -> None:
    """In the job's progress; what is no figure of the curve is in no point of it."""
    step = {"type": "step", "step": 1, "loss": 0.5, "steps_per_second": 4.0, "witness_share": 0.01}
    _, news = told(path, {"type": "plan", "counts": COUNTS, "total_steps": 4, "epochs": 2}, step)
    assert news.progress is not None
    assert (news.progress["steps_per_second"], news.progress["witness_share"]) == (4.0, 0.01)
    assert news.metrics == [(1, "train", {"loss": 0.5})]


def test_prefix_cache_is_part_of_progress(path: Path) -> None:
    """Told once, before the first step; it stays in view while the job trains."""
    cache = {"in_use": True, "modules": ["bert"], "share": 0.98, "bytes": 4096, "stored": "memory"}
    plan = {"type": "plan", "counts": COUNTS, "total_steps": 4, "epochs": 2, "step": 2}
    reports, news = told(path, plan, {"type": "prefix_cache"} | cache)
    assert news.progress is not None
    assert (news.progress["step"], news.progress["prefix_cache"]) == (2, cache)
    with Reporter(path) as reporter:
        reporter.report("step", step=3, epoch=1.5, loss=0.5)
    later = reports.read().progress
    assert later is not None
    assert (later["step"], later["prefix_cache"]) == (3, cache)


def test_steps_make_a_curve_and_few_events(path: Path) -> None:
    """Every reported step is a point; events tell of the first and the last, and of one a second between them."""
    steps = [{"type": "step", "step": step, "epoch": step / 50, "loss": 1 / step} for step in range(1, 101)]
    _, news = told(path, {"type": "plan", "counts": COUNTS, "total_steps": 100, "epochs": 2}, *steps)
    assert [step for step, split, _ in news.metrics if split == "train"] == list(range(1, 101))
    assert [note.data["step"] for note in news.events if note.type == "metrics" and note.data] == [1, 100]
    assert news.progress is not None
    assert (news.progress["step"], news.progress["percent"]) == (100, 100.0)


def test_first_step_is_known(path: Path) -> None:
    """Whoever waits for the first step can be told at once."""
    reports, _ = told(path, {"type": "stage", "stage": "training"})
    assert not reports.stepped
    with Reporter(path) as reporter:
        reporter.report("step", step=1, epoch=0.1, loss=1.0)
    reports.read()
    assert reports.stepped


def test_loss_that_is_no_number_is_kept(path: Path) -> None:
    """JSON has no NaN: the point is there without the value, and the event says None."""
    _, news = told(path, {"type": "step", "step": 1, "epoch": 0.1, "loss": float("nan"), "learning_rate": 0.1})
    assert news.metrics == [(1, "train", {"learning_rate": 0.1})]


def test_evaluation_is_another_curve(path: Path) -> None:
    """Validation points have a split of their own."""
    _, news = told(path, {"type": "evaluation", "step": 5, "metrics": {"accuracy": 0.5}})
    assert news.metrics == [(5, "valid", {"accuracy": 0.5})]
    assert news.events[0].message == "Evaluation after step 5: accuracy=0.5"


def test_checkpoints_are_told(path: Path) -> None:
    """To whoever makes models of them, as they were reported."""
    report = {"type": "checkpoint", "step": 5, "path": "step-5", "metrics": {"loss": 1.0}, "kept": [4, 5]}
    path.write_text(json.dumps(report) + "\n")
    reports = ReportReader(path)
    seen: list[Any] = []
    reports.on_checkpoint = seen.append
    reports.read()
    assert seen == [report]


def test_violation_is_remembered(path: Path) -> None:
    """For the evidence, and as an event at once."""
    violation = {"name": "w", "last_good_step": 0, "first_bad_step": 1, "operation": "aten::add_"}
    reports, news = told(path, {"type": "violation", **violation})
    assert reports.violations == [violation]
    assert (news.events[0].level, news.events[0].message) == (
        "error",
        "Frozen tensor w changed at step 1, by aten::add_",
    )


def test_violation_told_again_with_its_cause_is_one_violation(path: Path) -> None:
    """It is told when it is found, and once more after the replay: with an operation, or why none could be shown."""
    violation = {"name": "w", "last_good_step": 0, "first_bad_step": 1, "operation": None}
    explained = violation | {"explanation": "written from outside"}
    reports, news = told(path, {"type": "violation", **violation}, {"type": "violation", **explained})
    assert reports.violations == [explained]
    assert (
        news.events[1].message == "Frozen tensor w changed at step 1; the operation was not found: written from outside"
    )


def test_text_that_databases_refuse_is_made_storable(path: Path) -> None:
    """PostgreSQL takes no NUL and no half of a surrogate pair, in no text and no JSON."""
    path.write_bytes(b'{"type":"event","level":"loud","message":"a\\u0000b\\ud800","data":{"k\\u0000":["\\u0000"]}}\n')
    note = ReportReader(path).read().events[0]
    assert (note.message, note.level, note.data) == ("a\ufffdb?", "info", {"k\ufffd": ["\ufffd"]})


def test_unknown_report_is_passed_over(path: Path) -> None:
    """A newer trainer may say more than this supervisor knows."""
    _, news = told(path, {"type": "weather", "sunny": True}, {"type": "stage", "stage": "training"})
    assert [note.message for note in news.events] == ["Stage: training"]
