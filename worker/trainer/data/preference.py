"""Prompts with a chosen and a rejected answer, for DPO, and their log-probabilities under the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from app.files import formats
from app.files.problems import LineProblem
from worker.trainer.data import chat
from worker.trainer.data.batch import Batch, Encoded
from worker.trainer.data.chat import RenderedChat
from worker.trainer.data.language import (
    LanguageExamples,
    nothing_before_cut,
    prompt_and_answer,
    tokenized,
)
from worker.trainer.data.language_example import LanguageSequences, LanguageWriter
from worker.trainer.data.sampler import Positions
from worker.trainer.data.text import pad_id, refuse_slow

SIDES: Final = ("chosen", "rejected")


class PreferenceExamples:
    """Pairs of answers. `reference` (examples, 2) has the log-probabilities of chosen and rejected under the base.

    It is computed once, before the first step, while the model still is the base: no second copy is kept in memory.
    """

    def __init__(self, in_turns: LanguageSequences, *, pad: int) -> None:
        """`in_turns` are the chosen and the rejected answer of each example, by turns."""
        count = len(in_turns) // 2
        order = np.concatenate([np.arange(count) * 2, np.arange(count) * 2 + 1])
        self.both = LanguageExamples(in_turns.taken(order), pad=pad)
        self.lengths = self.both.lengths[:count] + self.both.lengths[count:]
        self.reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, positions: Positions) -> Batch:
        """Chosen first, then rejected, in one forward pass."""
        return self._with_reference(self.both.batch(self._rows(positions)), positions)

    def outline(self, positions: Positions) -> Batch:
        return self._with_reference(self.both.outline(self._rows(positions)), positions)

    def _rows(self, positions: Positions) -> Positions:
        return np.concatenate([positions, positions + len(self)])

    def _with_reference(self, both: Batch, positions: Positions) -> Batch:
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
    folder: Path | None = None,
) -> Encoded[PreferenceExamples]:
    """Encodes rows {"prompt" or "messages", "chosen", "rejected"[, "tools"]}, each side cut to `limit` tokens.

    Tokens that do not fit in memory are in files of `folder`. Raises DataError, by line, for an example whose chosen or
    rejected answer is wholly behind the cut.
    """
    refuse_slow(tokenizer)
    answers = LanguageWriter(folder)
    truncated = 0
    left_out: Counter[str] = Counter()
    problems: list[LineProblem] = []

    for line, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
        with chat.refused_by_template(tokenizer, line=line, param=param):
            rendered = [_rendered(row, side, tokenizer) for side in SIDES]
        left_out += rendered[0].left_out
        pair = [tokenized(each.text, each.spans, tokenizer, chat="messages" in row) for each in rendered]
        truncated += any(len(example.tokens.ids) > limit for example in pair)
        for side, example in zip(SIDES, pair, strict=True):
            cut = example.cut(limit)
            answers.add(cut)
            if not cut.learns:
                problems.append(nothing_before_cut(line, f"{side} answer", limit=limit))

    if problems:
        raise formats.refusal(problems, param=param)
    pad = pad_id(tokenizer)
    examples = PreferenceExamples(answers.finished(pad=pad), pad=pad)
    return Encoded(examples, truncated, chat.notes_of(left_out, tokenizer))


def _rendered(row: Mapping[str, Any], side: str, tokenizer: Any) -> RenderedChat:
    if "prompt" in row:
        return prompt_and_answer(row["prompt"], row[side])
    return chat.render_answer(row["messages"], row[side], tokenizer, tools=row.get("tools"))
