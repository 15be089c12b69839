"""How well scores put the documents of a query in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.trainer.data.batch import Batch

#: Documents that count in `ndcg`, from the first; and the score from which on a document is relevant, for `mrr`.
CUTOFF = 10
RELEVANT = 0.5


@dataclass(slots=True)
class RankingMeter:
    """Collects a prediction (a logit), a score and a query for each document."""

    predicted: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        queries = torch.arange(batch.examples) if batch.queries is None else batch.queries
        self.predicted.append(outputs.detach().double().cpu().reshape(-1))
        self.scores.append(batch.targets.double().cpu())
        self.queries.append(queries)

    def metrics(self) -> dict[str, float]:
        """Accuracy of "relevant or not"; where queries have documents to be put in order, `mrr` and `ndcg` over these.

        Reciprocal rank and discounted gain (the scores are the gains) are means over queries.
        """
        predicted, scores = torch.cat(self.predicted), torch.cat(self.scores)
        right = (predicted >= 0) == (scores >= RELEVANT)
        found = {"accuracy": right.double().mean().item()}
        ordered = list(_in_order(predicted, scores, torch.cat(self.queries)))
        if not ordered:
            return found
        return found | {
            "mrr": sum(map(_reciprocal_rank, ordered)) / len(ordered),
            "ndcg": sum(map(_normalised_gain, ordered)) / len(ordered),
        }


def _in_order(predicted: Tensor, scores: Tensor, queries: Tensor) -> Iterator[Tensor]:
    """For each query whose documents differ in score: these scores, by falling prediction.

    Among equal predictions the lowest score comes first, so that a model that says the same of all gains nothing.
    """
    order = torch.argsort(scores, stable=True)
    order = order[torch.argsort(-predicted[order], stable=True)]
    order = order[torch.argsort(queries[order], stable=True)]
    counts = torch.unique(queries, return_counts=True)[1].tolist()
    for documents in torch.split(scores[order], counts):
        if documents.max() > documents.min():
            yield documents


def _reciprocal_rank(scores: Tensor) -> float:
    relevant = (scores >= RELEVANT).nonzero()
    return 1.0 / (int(relevant[0]) + 1) if len(relevant) else 0.0


def _normalised_gain(scores: Tensor) -> float:
    """Discounted gain of the first documents, as a share of what the best order gains."""
    best = scores.sort(descending=True).values
    return (_gain(scores) / _gain(best)).item()


def _gain(scores: Tensor) -> Tensor:
    first = scores[:CUTOFF]
    return (first / torch.log2(torch.arange(len(first), dtype=first.dtype) + 2)).sum()
