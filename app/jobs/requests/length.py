"""How long a run will be, as far as the training file was read."""

import math
from dataclasses import dataclass
from typing import Any, Final

from app.jobs.requests.examples import RequestExamples
from app.specs import auto
from app.specs.hyperparameters import Hyperparameters
from app.specs.rules import TEXT

#: Bytes of text per token, and tokens of an example where the request has no max_length.
TOKEN_BYTES: Final = 4
MAX_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class Length:
    """The length of a run."""

    examples: int
    n_epochs: int
    batch_size: int
    steps: int
    tokens: int | None  # of an example; None where data has none

    @property
    def seen(self) -> int:
        """RequestExamples that pass through the model."""
        per_epoch = -(-self.examples // self.batch_size)
        epochs, rest = divmod(self.steps, per_epoch)
        return epochs * self.examples + min(rest * self.batch_size, self.examples)


def length_of(examples: RequestExamples, hyperparameters: Hyperparameters) -> Length | None:
    """The length of the run, without packing; None where the training file was not read to its end."""
    summary = examples.summaries[0]
    if summary is None:
        return None

    fraction = float(hyperparameters.validation_fraction or 0) if examples.files[1] is None else 0.0
    count = max(1, summary.examples - auto.held_out(summary.examples, fraction))
    epochs = _number(hyperparameters.n_epochs, auto.n_epochs(count))
    batch = _number(hyperparameters.batch_size, auto.batch_size(count))
    steps = auto.total_steps(count, n_epochs=epochs, batch_size=batch, max_steps=hyperparameters.max_steps)

    tokens = None
    if examples.task in TEXT:
        tokens = math.ceil(summary.bytes / max(1, summary.examples) / TOKEN_BYTES)
        tokens = max(1, min(tokens, hyperparameters.max_length or MAX_TOKENS))
    return Length(count, epochs, min(batch, count), steps, tokens)


def _number(value: Any, default: int) -> int:
    """The value of a request, or the default where it is absent or "auto"."""
    return value if isinstance(value, int) else default
