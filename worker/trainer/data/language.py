"""Chats, prompts with completions, and plain text as next-token examples. Only completions carry loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.files import formats
from app.files.problems import LineProblem
from worker.trainer.data import chat
from worker.trainer.data.batch import IGNORED, Batch, Encoded
from worker.trainer.data.chat import RenderedChat
from worker.trainer.data.chat_template import Span
from worker.trainer.data.language_example import LanguageExample, LanguageSequences, LanguageWriter, learned_tokens
from worker.trainer.data.packing import pack
from worker.trainer.data.padded import Tokens
from worker.trainer.data.sampler import Positions
from worker.trainer.data.text import pad_id, refuse_slow, run

Row = Mapping[str, Any]


class LanguageExamples:
    """Token sequences with a target per token, not shifted: equal to the input where loss is carried.

    With `packed`, several examples of a batch share a row.
    """

    def __init__(self, sequences: LanguageSequences, *, pad: int, packed: bool = False) -> None:
        self.sequences = sequences
        self.pad = pad
        self.packed = packed
        self._tokens = sequences.tokens

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._tokens.lengths

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        if self.packed:
            inputs, targets = pack([self.sequences[at] for at in positions.tolist()], pad=self.pad)
            return self._of(inputs, targets, positions)
        inputs = self._tokens.batch(positions)
        return self._of(inputs, self._padded_targets(inputs, positions), positions)

    def outline(self, positions: Positions) -> Batch:
        if self.packed:
            return self.batch(positions)
        inputs = self._tokens.outline(positions)
        return self._of(inputs, self._padded_targets(inputs, positions), positions)

    def _padded_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Tensor:
        return torch.from_numpy(self.sequences.targets.batch(positions, inputs["input_ids"].shape[1]))

    def _of(self, inputs: dict[str, Tensor], targets: Tensor, positions: Positions) -> Batch:
        weight = int((targets[:, 1:] != IGNORED).sum())  # the first token of a row is never predicted
        rows = None if self.packed else positions
        return Batch(inputs, targets, weight=weight, examples=len(positions), rows=rows)


def encode(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    limit: int,
    packed: bool = False,
    lines: Sequence[int] = (),
    param: str = "training_file",
    folder: Path | None = None,
) -> Encoded[LanguageExamples]:
    """Encodes rows {"messages"[, "tools"]}, {"prompt", "completion"} or {"text"}, each cut to `limit` tokens.

    Tokens that do not fit in memory are in files of `folder`. Raises DataError, by line, for an example without a
    learned token before the cut.
    """
    refuse_slow(tokenizer)
    sequences = LanguageWriter(folder)
    problems: list[LineProblem] = []
    truncated = 0
    left_out: Counter[str] = Counter()

    for line, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
        rendered = _rendered(row, tokenizer, line=line, param=param)
        example = tokenized(rendered.text, rendered.spans, tokenizer, chat="messages" in row)
        cut = example.cut(limit)
        truncated += len(example.tokens.ids) > limit
        left_out += rendered.left_out
        if not cut.learns:
            problems.append(_nothing_to_learn(line, rendered, example, limit=limit))
        sequences.add(cut)

    if problems:
        raise formats.refusal(problems, param=param)
    notes = chat.notes_of(left_out, tokenizer)
    pad = pad_id(tokenizer)
    return Encoded(LanguageExamples(sequences.finished(pad=pad), pad=pad, packed=packed), truncated, notes)


def nothing_before_cut(line: int, part: str, *, limit: int) -> LineProblem:
    message = f"has no {part} within the first {limit} tokens, so nothing to learn from"
    return LineProblem(line, None, "nothing_to_learn", message)


def prompt_and_answer(prompt: str, answer: str) -> RenderedChat:
    """A prompt with its answer, which carries loss."""
    return RenderedChat(prompt + answer, [(len(prompt), len(prompt) + len(answer))])


def tokenized(text: str, spans: Sequence[Span], tokenizer: Any, *, chat: bool) -> LanguageExample:
    """Token ids of a text; tokens that begin within one of `spans` (in characters) carry loss.

    A chat template writes its own special tokens, so for a `chat` none are added, at the end neither.
    """
    encoded = run(tokenizer, text, add_special_tokens=not chat, return_offsets_mapping=True, verbose=False)
    ids = list(encoded["input_ids"])
    learned = learned_tokens(text, encoded["offset_mapping"], spans)

    end = tokenizer.eos_token_id
    if not chat and end is not None and ids[-1:] != [end]:  # the model has to learn where to stop
        ids.append(end)
        learned.append(True)

    array = np.array(ids, dtype=np.int32)
    return LanguageExample(Tokens(array), np.where(np.array(learned, dtype=bool), array, IGNORED).astype(np.int32))


def _rendered(row: Row, tokenizer: Any, *, line: int, param: str) -> RenderedChat:
    """One example as text, and the spans of characters that carry loss."""
    if "text" in row:
        return RenderedChat(row["text"], [(0, len(row["text"]))])
    if "prompt" in row:
        return prompt_and_answer(row["prompt"], row["completion"])
    with chat.refused_by_template(tokenizer, line=line, param=param):
        return chat.render(row["messages"], tokenizer, tools=row.get("tools"))


def _nothing_to_learn(line: int, rendered: RenderedChat, example: LanguageExample, *, limit: int) -> LineProblem:
    if len(example.tokens.ids) <= 1:  # at most the mark of its end
        message = "becomes no token: the model's tokenizer has none for any of its characters"
        return LineProblem(line, None, "nothing_to_learn", message)
    if rendered.spans or not rendered.hidden:
        return nothing_before_cut(line, "completion", limit=limit)
    message = "has no assistant message that the tokenizer's chat template shows, so nothing to learn from"
    return LineProblem(line, "messages", "nothing_to_learn", message)
