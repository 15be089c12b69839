"""How well documents are put in order, by hand and by another implementation."""

from __future__ import annotations

import pytest
import torch

from worker.trainer.data.batch import Batch
from worker.trainer.training.ranking import RankingMeter


def measured(*documents: tuple[int, float, float]) -> dict[str, float]:
    """Metrics of documents as (query, prediction, score), given to the meter in two batches."""
    meter = RankingMeter()
    half = len(documents) // 2
    for part in (documents[:half], documents[half:]):
        queries, predicted, scores = (torch.tensor(column) for column in zip(*part, strict=True))
        batch = Batch({}, scores, weight=len(part), examples=len(part), queries=queries)
        meter.add(predicted[:, None], batch)
    return meter.metrics()


def test_each_query_counts_once() -> None:
    """The relevant document of the first query comes second, that of the other first; their batches are mixed."""
    found = measured((0, 2.0, 0.0), (1, 3.0, 1.0), (0, 1.0, 1.0), (1, -1.0, 0.0), (0, -2.0, 0.0))
    assert found["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["ndcg"] == pytest.approx((1 / torch.log2(torch.tensor(3.0)).item() + 1) / 2)
    assert found["accuracy"] == pytest.approx(4 / 5)


def test_a_query_without_an_order_is_left_out() -> None:
    """One of a single document, and one whose documents are equally good; without another there is nothing to order."""
    alone = [(7, 0.3, 1.0), (8, 0.1, 0.5), (8, 0.9, 0.5)]
    assert set(measured(*alone)) == {"accuracy"}
    assert measured(*alone, (9, 1.0, 1.0), (9, 0.0, 0.0))["mrr"] == 1.0


def test_saying_the_same_of_all_gains_nothing() -> None:
    """Among equal predictions the worst document comes first."""
    found = measured((0, 0.0, 1.0), (0, 0.0, 0.0), (0, 0.0, 0.25))
    assert found["mrr"] == pytest.approx(1 / 3)


def test_no_document_is_relevant() -> None:
    """The order still has a gain; nothing is found for `mrr`."""
    found = measured((0, 2.0, 0.4), (0, 1.0, 0.0))
    assert found["mrr"] == 0.0
    assert found["ndcg"] == pytest.approx(1.0)


def test_gains_are_those_of_sklearn() -> None:
    """Over random scores, with more documents than count."""
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    predicted, scores = torch.randn(3, 14, dtype=torch.float64), torch.rand(3, 14, dtype=torch.float64)
    rows = [(q, predicted[q, at].item(), scores[q, at].item()) for at in range(14) for q in range(3)]
    assert measured(*rows)["ndcg"] == pytest.approx(metrics.ndcg_score(scores, predicted, k=10), rel=1e-6)
