"""What each task minimises and measures. A loss is a sum over the batch, which the loop divides by the step's weight.

So a step's gradient does not depend on how its examples are split into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.data.sampler import Positions
from worker.trainer.training.cross_entropy import token_losses
from worker.trainer.training.ranking import RankingMeter

Metrics = dict[str, float]


class Meter(Protocol):
    """Collects the outputs of an evaluation, batch by batch."""

    def add(self, outputs: Tensor, batch: Batch) -> None: ...

    def metrics(self) -> Metrics: ...


class Objective(Protocol):
    """`loss` gives (sum over the batch in float32, outputs for the meter)."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]: ...

    def meter(self) -> Meter: ...


@dataclass(frozen=True, slots=True)
class Regression:
    """Squared error, averaged over examples and outputs."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        predicted = predict(model, batch).float()
        return F.mse_loss(predicted, batch.targets.float().view_as(predicted), reduction="sum"), predicted

    def meter(self) -> Meter:
        return RegressionMeter()


@dataclass(frozen=True, slots=True)
class Ranking:
    """Binary cross-entropy of the one output with a score from 0 to 1, as cross-encoders are trained."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        predicted = predict(model, batch).float().reshape(-1)
        return F.binary_cross_entropy_with_logits(predicted, batch.targets, reduction="sum"), predicted

    def meter(self) -> Meter:
        return RankingMeter()


@dataclass(frozen=True, slots=True)
class Classification:
    """Cross-entropy over classes, one label per example."""

    label_smoothing: float = 0.0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = predict(model, batch).float()
        return F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=self.label_smoothing), logits

    def meter(self) -> Meter:
        return ClassificationMeter()


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """Cross-entropy over classes, one label per token; positions marked `IGNORED` carry none."""

    label_smoothing: float = 0.0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = predict(model, batch)
        return token_losses(logits, batch.targets, label_smoothing=self.label_smoothing).sum(), logits

    def meter(self) -> Meter:
        return TokenMeter()


@dataclass(frozen=True, slots=True)
class LanguageModelling:
    """Cross-entropy of the next token. `targets` are not shifted: position t is predicted from those before it."""

    label_smoothing: float = 0.0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, width = predict(model, batch), batch.targets.shape[1]
        if not batch.learned_only and logits.shape[1] != width:  # a slice, also of all, costs its backward pass a copy
            logits = logits[:, -width:]  # those of virtual tokens come first
        return token_losses(logits, _next_tokens(batch), label_smoothing=self.label_smoothing).sum(), logits

    def meter(self) -> Meter:
        return TokenMeter(perplexity=True, shifted=True)


@dataclass(frozen=True, slots=True)
class Contrastive:
    """Cross-entropy of picking an anchor's own positive among all of the batch, by cosine of the texts' vectors.

    These are means over tokens, or what the modules of a sentence-transformers folder make of them.
    """

    temperature: float = 0.05
    head: Callable[[Tensor, Tensor], Tensor] | None = None  # of hidden states and mask

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        vectors = _vectors(model, batch, self.head or mean_pool)
        anchors, positives = vectors[: batch.examples], vectors[batch.examples :]
        similarity = anchors @ positives.T / self.temperature
        return F.cross_entropy(similarity, batch.targets, reduction="sum"), similarity

    def meter(self) -> Meter:
        return RankMeter()


@dataclass(frozen=True, slots=True)
class ImageTextContrastive:
    """The model's own loss over all pictures and texts of a batch: softmax as in CLIP, sigmoid as in SigLIP."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs are (pictures, texts): how well each text fits each picture."""
        outputs = model(**batch.inputs, return_loss=True)
        return outputs.loss.float() * batch.examples, outputs.logits_per_image.float()

    def meter(self) -> Meter:
        return RankMeter()


@dataclass(frozen=True, slots=True)
class Preference:
    """DPO (Rafailov 2023): the chosen answer should gain on the rejected one, relative to the base."""

    beta: float = 0.1

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs are the margins (examples,): how much more the chosen one has gained."""
        assert batch.reference is not None
        gained = self.log_probabilities(model, batch) - batch.reference
        margins = self.beta * (gained[:, 0] - gained[:, 1])
        return -F.logsigmoid(margins).sum(), margins

    def log_probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """(examples, 2): log-probability of each chosen and rejected answer, summed over its tokens."""
        each = -token_losses(predict(model, batch), _next_tokens(batch))
        rows = (_shifted(batch.targets) != IGNORED).nonzero()[:, 0]
        summed = each.new_zeros(len(batch.targets)).index_add(0, rows, each)
        return torch.stack([summed[: batch.examples], summed[batch.examples :]], dim=1)

    def meter(self) -> Meter:
        return MarginMeter()


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: (batch, width, features) and (batch, width) to (batch, features)."""
    real = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1.0)


def predict(model: nn.Module, batch: Batch) -> Tensor:
    """The model's output tensor; a transformers model's `logits`. A plain model names its one input as it likes."""
    outputs = model(batch.inputs["x"]) if set(batch.inputs) == {"x"} else model(**batch.inputs)
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


@dataclass(slots=True)
class RegressionMeter:
    predicted: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        self.predicted.append(outputs.detach().double().cpu().reshape(batch.examples, -1))
        self.targets.append(batch.targets.double().cpu().reshape(batch.examples, -1))

    def metrics(self) -> Metrics:
        predicted, targets = torch.cat(self.predicted), torch.cat(self.targets)
        error = predicted - targets
        spread = (targets - targets.mean(dim=0)).square().sum()
        mse = error.square().mean().item()
        found = {"mse": mse, "rmse": math.sqrt(mse), "mae": error.abs().mean().item()}
        return found | ({"r2": 1.0 - (error.square().sum() / spread).item()} if spread > 0 else {})


@dataclass(slots=True)
class ClassificationMeter:
    predicted: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        self.predicted.append(outputs.detach().argmax(dim=-1).cpu())
        self.targets.append(batch.targets.cpu())

    def metrics(self) -> Metrics:
        """Accuracy, macro F1 over the classes that occur, and the accuracy of always predicting the commonest class."""
        predicted, targets = torch.cat(self.predicted), torch.cat(self.targets)
        classes = torch.unique(torch.cat([predicted, targets]))
        scores = []
        for label in classes:
            both = ((predicted == label) & (targets == label)).sum().item()
            scores.append(2 * both / ((predicted == label).sum().item() + (targets == label).sum().item()))
        return {
            "accuracy": (predicted == targets).double().mean().item(),
            "macro_f1": sum(scores) / len(scores),
            "majority_baseline": torch.bincount(targets).max().item() / len(targets),
        }


@dataclass(slots=True)
class RankMeter:
    """How often an anchor's own positive comes first in its batch, and the mean reciprocal rank."""

    ranks: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        own = outputs.gather(1, batch.targets[:, None])
        self.ranks.append((outputs > own).sum(dim=1).cpu() + 1)

    def metrics(self) -> Metrics:
        ranks = torch.cat(self.ranks).double()
        return {"accuracy": (ranks == 1).double().mean().item(), "mrr": (1 / ranks).mean().item()}


@dataclass(slots=True)
class MarginMeter:
    """How often the chosen answer gained more, and by how much on average."""

    margins: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        self.margins.append(outputs.detach().double().cpu())

    def metrics(self) -> Metrics:
        margins = torch.cat(self.margins)
        return {"accuracy": (margins > 0).double().mean().item(), "margin": margins.mean().item()}


@dataclass(slots=True)
class TokenMeter:
    """Accuracy over the tokens that carry loss."""

    perplexity: bool = False
    shifted: bool = False
    right: int = 0
    tokens: int = 0
    loss: float = 0.0

    def add(self, outputs: Tensor, batch: Batch) -> None:
        targets = _next_tokens(batch) if self.shifted else batch.targets
        self.right += int((outputs.argmax(dim=-1) == targets).sum().item())  # an ignored one is no class
        self.tokens += int((targets != IGNORED).sum().item())
        self.loss += token_losses(outputs, targets).sum().item()

    def metrics(self) -> Metrics:
        found = {"token_accuracy": self.right / max(1, self.tokens)}
        return found | ({"perplexity": _exp(self.loss / max(1, self.tokens))} if self.perplexity else {})


def _vectors(model: nn.Module, batch: Batch, head: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(rows, features): one vector of length 1 for each text, computed group by group where the batch has groups."""

    def pooled(inputs: dict[str, Tensor]) -> Tensor:
        vectors = head(model(**inputs).last_hidden_state.float(), inputs["attention_mask"])
        return F.normalize(vectors.float(), dim=-1)

    if not batch.groups:
        return pooled(batch.inputs)
    found = torch.cat([pooled(_some_rows(batch, rows)) for rows in batch.groups])
    back = np.argsort(np.concatenate(batch.groups))
    return found.index_select(0, torch.from_numpy(back).to(found.device))


def _some_rows(batch: Batch, rows: Positions) -> dict[str, Tensor]:
    """Inputs of these rows alone, as wide as the longest of them."""
    chosen = torch.from_numpy(rows).to(batch.targets.device)
    width = int(batch.inputs["attention_mask"].index_select(0, chosen).sum(dim=1).max())
    return {name: tensor.index_select(0, chosen)[:, :width] for name, tensor in batch.inputs.items()}


def _next_tokens(batch: Batch) -> Tensor:
    """The target of each position that the outputs hold."""
    targets = _shifted(batch.targets)
    return targets[targets != IGNORED] if batch.learned_only else targets


def _shifted(targets: Tensor) -> Tensor:
    """The target of each position: the next token, and nothing at the last one."""
    return F.pad(targets[:, 1:], (0, 1), value=IGNORED)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
