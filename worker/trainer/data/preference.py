"""A prompt with a chosen and a rejected answer (DPO), and what the model thought of both before it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.files import formats
from app.files.lines import LineProblem
from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.data.language import (
    LanguageExamples,
    conversation_and_answer,
    nothing_to_learn,
    prompt_and_answer,
    refused_by_template,
)
from worker.trainer.data.language_example import LanguageExample
from worker.trainer.data.sampler import Positions
from worker.trainer.data.text import Tokens, pad_id


class PreferenceExamples:
    """`reference` is (examples, 2): log-probabilities of chosen and rejected under the base, filled in before training.

    The reference model is the frozen base itself: asked once, at its own weights, so no second copy of it is kept.
    """

    def __init__(self, chosen: Sequence[LanguageExample], rejected: Sequence[LanguageExample], *, pad: int) -> None:
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
        return replace(both, weight=count, examples=count, reference=reference)


def encode(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    limit: int,
    lines: Sequence[int] = (),
    param: str = "training_file",
) -> tuple[PreferenceExamples, int]:
    """Rows {"prompt", "chosen", "rejected"}, or "messages" for the prompt; and how many were cut to `limit` tokens.

    An example of which an answer lies wholly behind the cut has nothing to compare and is refused.
    """
    sides: dict[str, list[LanguageExample]] = {"chosen": [], "rejected": []}
    truncated = 0
    problems: list[LineProblem] = []
    for line, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
        passages = [_passage(row, side, tokenizer, line=line, param=param) for side in sides]
        truncated += any(len(each.tokens.ids) > limit for each in passages)
        for side, passage in zip(sides, passages, strict=True):
            cut = LanguageExample(Tokens(passage.tokens.ids[:limit]), passage.targets[:limit])
            sides[side].append(cut)
            if not (cut.targets[1:] != IGNORED).any():
                problems.append(nothing_to_learn(line, f"{side} answer", limit=limit))
    if problems:
        raise formats.refusal(problems, param=param)
    return PreferenceExamples(sides["chosen"], sides["rejected"], pad=pad_id(tokenizer)), truncated


def _passage(row: Mapping[str, Any], side: str, tokenizer: Any, *, line: int, param: str) -> LanguageExample:
    if "prompt" in row:
        return prompt_and_answer(row["prompt"], row[side], tokenizer)
    with refused_by_template(line=line, param=param):
        return conversation_and_answer(row["messages"], row[side], tokenizer)
