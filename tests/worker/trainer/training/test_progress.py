"""Steps are reported at a bounded rate, and the curve of a long run is thinned out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worker.protocol import Reporter, read_reports
from worker.trainer.data.sampler import Sampler
from worker.trainer.training import progress
from worker.trainer.training.progress import TrainingProgress


class Clock:
    """Stands in for the module's `time`; goes on by a step's duration whenever a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def job(*, lengths: bool) -> Any:
    """What progress reads of a job: ten examples in batches of four, of 5 tokens each or of none."""
    training = SimpleNamespace(lengths=np.full(10, 5) if lengths else None)
    return SimpleNamespace(sampler=Sampler(10, 4, 0), training=training)


def run(path: Path, clock: Clock, *, steps: int, seconds: float, lengths: bool = False) -> tuple[Any, list[Any]]:
    with Reporter(path) as reporter:
        made = TrainingProgress(reporter, steps, _began=clock.now)
        for step in range(1, steps + 1):
            clock.now += seconds
            made.step(step, job(lengths=lengths), loss=1.0)
    return made, read_reports(path)[0]


def test_steps_in_quick_succession_share_a_report(tmp_path: Path, clock: Clock) -> None:
    """The first, then one for each tenth of a second, and the last; speeds are those since the report before."""
    made, reports = run(tmp_path / "reports", clock, steps=12, seconds=0.04, lengths=True)
    assert [report["step"] for report in reports] == [1, 4, 7, 10, 12]
    assert reports[1]["examples_per_second"] == pytest.approx((4 + 2 + 4) / 0.12, rel=1e-3)
    assert reports[1]["tokens_per_second"] == pytest.approx(5 * (4 + 2 + 4) / 0.12, rel=1e-3)
    assert reports[-1]["epoch"] == 4.0
    assert made.seconds() == pytest.approx(0.48)


def test_the_witness_part_of_the_time_is_reported(tmp_path: Path, clock: Clock) -> None:
    """Of all the time since training began; steps a second are those since the report before."""
    with Reporter(tmp_path / "reports") as reporter:
        witness: Any = SimpleNamespace(seconds=0.01)
        made = TrainingProgress(reporter, 9, witness=witness, _began=clock.now)
        for step in (1, 2):
            clock.now += 0.5
            made.step(step, job(lengths=False), loss=1.0)
    reports = read_reports(tmp_path / "reports")[0]
    assert [report["witness_share"] for report in reports] == [0.02, 0.01]
    assert [report["steps_per_second"] for report in reports] == [2.0, 2.0]
    assert "witness_share" not in made.history[-1]


def test_slow_steps_are_reported_each(tmp_path: Path, clock: Clock) -> None:
    """Without token counts there is no speed in tokens."""
    _, reports = run(tmp_path / "reports", clock, steps=3, seconds=1.0)
    assert [report["step"] for report in reports] == [1, 2, 3]
    assert "tokens_per_second" not in reports[0]


def test_a_long_curve_is_thinned_out(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, with both ends, and with every evaluation."""
    monkeypatch.setattr(progress, "MAX_POINTS", 4)
    made, _ = run(tmp_path / "reports", clock, steps=14, seconds=1.0)
    assert [point["step"] for point in made.history] == [1, 4, 8, 12, 14]
    with Reporter(tmp_path / "more") as reporter:
        made.reporter = reporter
        made.evaluation(14, {"loss": 0.5})
    assert made.history[-1] == {"step": 14, "valid_loss": 0.5}
    assert read_reports(tmp_path / "more")[0][0]["metrics"] == {"loss": 0.5}
