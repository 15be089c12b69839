"""A prompt with a chosen and a rejected answer (DPO), and what the model thought of both before it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.trainer.data.batch import Batch
from worker.trainer.data.language import LanguageExamples, Passage, prompt_and_answer
from worker.trainer.data.order import Positions
from worker.trainer.data.text import Tokens, pad_id


class PreferenceExamples:
    """`reference` is (examples, 2): log-probabilities of chosen and rejected under the base, filled in before training.

    The reference model is the frozen base itself: asked once, at its own weights, so no second copy of it is kept.
    """

    def __init__(self, chosen: Sequence[Passage], rejected: Sequence[Passage], *, pad: int) -> None:
        self.both = LanguageExamples([*chosen, *rejected], pad=pad)
        self.lengths = self.both.lengths[: len(chosen)] + self.both.lengths[len(chosen) :]
        self.reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, positions: Positions) -> Batch:
        """Chosen first, then rejected, in one forward pass."""
        both = self.both.batch(np.concatenate([positions, positions + len(self)]))
        count = len(positions)
        reference = None if self.reference is None else self.reference[torch.from_numpy(positions)]
        return Batch(both.inputs, both.targets, weight=count, examples=count, tokens=both.tokens, reference=reference)


def encode(rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, limit: int) -> tuple[PreferenceExamples, int]:
    """Rows {"prompt", "chosen", "rejected"}, and how many answers were cut to `limit` tokens."""
    sides: dict[str, list[Passage]] = {"chosen": [], "rejected": []}
    truncated = 0
    for row in rows:
        for side, found in sides.items():
            passage = prompt_and_answer(row["prompt"], row[side], tokenizer)
            truncated += len(passage.tokens.ids) > limit
            found.append(Passage(Tokens(passage.tokens.ids[:limit]), passage.targets[:limit]))
    return PreferenceExamples(sides["chosen"], sides["rejected"], pad=pad_id(tokenizer)), truncated
