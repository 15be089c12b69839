"""Losses are sums over what carries weight, so cutting a batch changes nothing; metrics are what they are called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.training.objectives import (
    Classification,
    Contrastive,
    LanguageModelling,
    Objective,
    Preference,
    Regression,
    TokenClassification,
)


class Fixed(nn.Module):
    """A model that answers with its input."""

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return x


def batch(x: Tensor, targets: Tensor, **others: Any) -> Batch:
    return Batch({"x": x}, targets, weight=others.pop("weight", 1), examples=len(x), **others)


TOKENS = torch.tensor([[IGNORED, 1, 2, IGNORED], [0, IGNORED, 1, 2], [3, 3, 3, 3]])


@pytest.mark.parametrize(
    ("objective", "x", "targets"),
    [
        (Regression(), torch.randn(6, 2), torch.randn(6, 2)),
        (Classification(), torch.randn(6, 4), torch.randint(0, 4, (6,))),
        (TokenClassification(label_smoothing=0.1), torch.randn(3, 4, 5), TOKENS),
        (LanguageModelling(), torch.randn(3, 4, 5), TOKENS),
    ],
    ids=lambda each: type(each).__name__,
)
def test_parts_of_a_batch_add_up(objective: Objective, x: Tensor, targets: Tensor) -> None:
    """The sum over parts is the sum over the whole, even where the parts carry different weights."""
    whole, _ = objective.loss(Fixed(), batch(x, targets))
    parts = sum(objective.loss(Fixed(), batch(x[at : at + 1], targets[at : at + 1]))[0] for at in range(len(x)))
    assert torch.allclose(whole, torch.as_tensor(parts), rtol=1e-5)


def test_language_loss_is_that_of_the_next_token() -> None:
    """Position t predicts the target at t + 1; ignored targets carry nothing."""
    logits = torch.randn(1, 4, 5)
    targets = torch.tensor([[4, IGNORED, 2, 3]])
    loss, _ = LanguageModelling().loss(Fixed(), batch(logits, targets))
    assert torch.allclose(loss, F.cross_entropy(logits[0, [1, 2]], torch.tensor([2, 3]), reduction="sum"))


def test_half_precision_outputs_are_summed_in_float32() -> None:
    """A bfloat16 model's loss is not rounded to bfloat16."""
    loss, _ = Classification().loss(Fixed(), batch(torch.randn(4, 3).bfloat16(), torch.tensor([0, 1, 2, 0])))
    assert loss.dtype == torch.float32


def test_contrastive_prefers_the_own_positive() -> None:
    """Equal pairs give a small loss and rank 1; padding does not count."""

    class Encoder(nn.Module):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Any:
            return SimpleNamespace(last_hidden_state=x)

    vectors = torch.eye(3)[:, None].expand(3, 2, 3).clone()
    vectors[:, 1] = 100.0  # behind the mask
    inputs = {"x": torch.cat([vectors, vectors]), "attention_mask": torch.tensor([[1, 0]] * 6)}
    objective = Contrastive(temperature=0.1)
    pairs = Batch(inputs, torch.arange(3), weight=3, examples=3)
    loss, similarity = objective.loss(Encoder(), pairs)
    assert loss.item() < 1e-3
    meter = objective.meter()
    meter.add(similarity, pairs)
    assert meter.metrics() == {"accuracy": 1.0, "mrr": 1.0}


def test_preference_is_the_log_sigmoid_of_the_margin() -> None:
    """By hand: two answers of one token each, against the reference."""
    logits = torch.randn(2, 2, 3)
    targets = torch.tensor([[IGNORED, 1], [IGNORED, 2]])
    reference = torch.tensor([[-1.0, -2.0]])
    pair = Batch({"x": logits}, targets, weight=1, examples=1, reference=reference)
    loss, margin = Preference(beta=0.5).loss(Fixed(), pair)
    ours = F.log_softmax(logits[:, 0], dim=-1)
    expected = 0.5 * ((ours[0, 1] + 1.0) - (ours[1, 2] + 2.0))
    assert torch.allclose(margin, expected[None])
    assert torch.allclose(loss, -F.logsigmoid(expected))


def measured(objective: Objective, x: Tensor, targets: Tensor) -> dict[str, float]:
    meter = objective.meter()
    for at in range(len(x)):
        part = batch(x[at : at + 1], targets[at : at + 1])
        meter.add(objective.loss(Fixed(), part)[1], part)
    return meter.metrics()


def test_regression_metrics() -> None:
    """mse, its root, mae and r2 as the field has them; a constant target has no r2."""
    found = measured(Regression(), torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
    assert found == pytest.approx({"mse": 1 / 3, "rmse": 3**-0.5, "mae": 1 / 3, "r2": 0.5})
    assert "r2" not in measured(Regression(), torch.ones(2, 1), torch.ones(2, 1))


def test_classification_metrics() -> None:
    """Accuracy beside the majority baseline; F1 averaged over classes that occur."""
    logits = torch.eye(3)[[0, 0, 1, 1]] * 10
    found = measured(Classification(), logits, torch.tensor([0, 0, 0, 1]))
    assert found == pytest.approx({"accuracy": 0.75, "macro_f1": (0.8 + 2 / 3) / 2, "majority_baseline": 0.75})


def test_token_metrics() -> None:
    """Accuracy and perplexity over what carries loss."""
    logits = torch.full((1, 3, 4), -1e9)
    logits[0, 0, 2] = logits[0, 1, 1] = 0.0
    found = measured(LanguageModelling(), logits, torch.tensor([[0, 2, 1]]))
    assert found == pytest.approx({"token_accuracy": 1.0, "perplexity": 1.0})
