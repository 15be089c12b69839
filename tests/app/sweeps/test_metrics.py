"""Which metric ranks a sweep, and that trainers report the ones that are offered."""

from typing import Any, get_args

import pytest

from app.errors import InvalidRequest
from app.specs.models import Task
from app.sweeps.metrics import OF_TASK, MetricName, RankingMetric


def test_the_loss_is_the_default() -> None:
    """On validation examples where there are any, else on the training examples."""
    assert RankingMetric.chosen(None, task="pairs", validated=True) == RankingMetric("loss", "valid", "minimize")
    assert RankingMetric.chosen("loss", task="pairs", validated=False).split == "train"


@pytest.mark.parametrize(
    ("name", "task", "validated", "code"),
    [("accuracy", "text-regression", True, "unknown_metric"), ("accuracy", "pairs", False, "no_validation")],
)
def test_a_metric_that_jobs_will_not_have_is_refused(name: str, task: str, validated: bool, code: str) -> None:
    """Before anything runs."""
    with pytest.raises(InvalidRequest) as refused:
        RankingMetric.chosen(name, task=task, validated=validated)
    assert (refused.value.param, refused.value.code) == ("metric", code)


def test_better_is_less_or_more() -> None:
    """The sort key follows the goal; the metric survives its column."""
    accuracy = RankingMetric.chosen("accuracy", task="pairs", validated=True)
    assert accuracy.cost(0.9) < accuracy.cost(0.1)
    assert RankingMetric.from_json(accuracy.to_json()) == accuracy


def test_every_offered_metric_is_one_that_trainers_report() -> None:
    """By task: what the objective's meter measures, and the loss."""
    import torch

    from worker.trainer.data.batch import Batch
    from worker.trainer.training import tasks

    scores, classes = torch.rand(4, 3), torch.tensor([0, 1, 2, 1])
    shapes: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
        "tabular-regression": (torch.rand(4, 1), torch.rand(4, 1)),
        "text-regression": (torch.rand(4, 1), torch.rand(4, 1)),
        "text-ranking": (torch.rand(4, 1), torch.tensor([1.0, 0.0, 0.5, 0.0])),
        "token-classification": (torch.rand(2, 4, 3), torch.tensor([[0, 1, 2, 1]] * 2)),
        "causal-lm": (torch.rand(2, 4, 3), torch.tensor([[0, 1, 2, 1]] * 2)),
        "image-text": (torch.rand(2, 4, 3), torch.tensor([[0, 1, 2, 1]] * 2)),
        "contrastive-image-text": (torch.rand(4, 4), torch.arange(4)),
        "pairs": (torch.rand(4, 4), torch.arange(4)),
        "preference": (torch.rand(4), torch.zeros(4)),
    }
    smoothing: Any = type("", (), {"label_smoothing": 0.0, "temperature": 0.1, "beta": 0.1})()
    for task, offered in OF_TASK.items():
        outputs, targets = shapes.get(task, (scores, classes))
        meter = tasks.objective(task, smoothing).meter()
        meter.add(outputs, Batch({}, targets, weight=4, examples=4, queries=torch.zeros(4)))
        assert set(offered) <= {"loss", *meter.metrics()}, task
    assert {name for offered in OF_TASK.values() for name in offered} == set(get_args(MetricName))
    assert set(get_args(Task)) <= set(OF_TASK)
