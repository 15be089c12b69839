"""Metrics by which a sweep ranks its jobs: which tasks have them, and whether more or less is better."""

from dataclasses import asdict, dataclass
from typing import Final, Literal, Self

from app.errors import InvalidRequest
from app.jsontypes import JsonDict

Goal = Literal["minimize", "maximize"]
MetricName = Literal[
    "loss", "accuracy", "macro_f1", "mse", "rmse", "mae", "r2", "mrr", "ndcg", "margin", "token_accuracy", "perplexity"
]

_LESS_IS_BETTER: Final = frozenset({"loss", "mse", "rmse", "mae", "perplexity"})
_CLASSES: Final = ("loss", "accuracy", "macro_f1")
_NUMBERS: Final = ("loss", "mse", "rmse", "mae", "r2")
#: What an evaluation reports, by task, as far as it can rank jobs.
OF_TASK: Final[dict[str, tuple[str, ...]]] = {
    "text-classification": _CLASSES,
    "image-classification": _CLASSES,
    "tabular-classification": _CLASSES,
    "text-regression": _NUMBERS,
    "tabular-regression": _NUMBERS,
    "text-ranking": ("loss", "accuracy", "mrr", "ndcg"),
    "token-classification": ("loss", "token_accuracy"),
    "causal-lm": ("loss", "token_accuracy", "perplexity"),
    "image-text": ("loss", "token_accuracy", "perplexity"),
    "contrastive-image-text": ("loss", "accuracy", "mrr"),
    "pairs": ("loss", "accuracy", "mrr"),
    "preference": ("loss", "accuracy", "margin"),
}
#: Steps at the end of a run over which a training loss is averaged: that of one batch says little.
LAST_STEPS: Final = 20

FALLBACK: Final = (
    "there are no validation examples: the jobs are ranked by their training loss, the mean of the last "
    f"{LAST_STEPS} steps, which favours those that overfit; give a validation_file or a validation_fraction"
)


@dataclass(frozen=True, slots=True)
class RankingMetric:
    """A number of a job's curve: its name, the split it is measured on, and which way is better."""

    name: str
    split: Literal["train", "valid"]
    goal: Goal

    @classmethod
    def chosen(cls, name: str | None, *, task: str, validated: bool) -> Self:
        """The requested metric, or the loss. Raises InvalidRequest for one that the jobs will not have."""
        name = name or "loss"
        known = OF_TASK.get(task, ("loss",))
        if name not in known:
            message = f"metric: an evaluation of {task} has no {name}; it has {', '.join(known)}"
            raise InvalidRequest(message, param="metric", code="unknown_metric")
        if not validated and name != "loss":
            message = (
                f"metric: {name} is measured on validation examples; give a validation_file or a validation_fraction"
            )
            raise InvalidRequest(message, param="metric", code="no_validation")
        return cls(name, "valid" if validated else "train", "minimize" if name in _LESS_IS_BETTER else "maximize")

    def to_json(self) -> JsonDict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: JsonDict) -> Self:
        return cls(**content)

    def cost(self, value: float) -> float:
        """The value turned so that less is better, for sorting."""
        return value if self.goal == "minimize" else -value
