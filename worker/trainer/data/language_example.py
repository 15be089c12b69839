"""Tokenized texts, some tokens of which carry loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.chat_template import Span
from worker.trainer.data.padded import PaddedRows, PaddedTokens, RowWriter, Tokens, TokenWriter
from worker.trainer.data.sampler import Positions


@dataclass(frozen=True, slots=True)
class LanguageExample:
    """Token ids of one example; `targets` repeats the id where it carries loss, and is `IGNORED` elsewhere."""

    tokens: Tokens
    targets: NDArray[np.int32]

    @property
    def learns(self) -> bool:
        """Whether any token carries loss. The first one never does: nothing comes before it."""
        return bool((self.targets[1:] != IGNORED).any())

    def cut(self, limit: int) -> LanguageExample:
        """The first `limit` tokens."""
        return LanguageExample(Tokens(self.tokens.ids[:limit]), self.targets[:limit])


class LanguageSequences(Sequence[LanguageExample]):
    """The examples of a data set in flat arrays: their tokens, and the targets of these."""

    def __init__(self, tokens: PaddedTokens, targets: PaddedRows) -> None:
        self.tokens = tokens
        self.targets = targets

    @classmethod
    def of(cls, examples: Iterable[LanguageExample], *, pad: int) -> LanguageSequences:
        """These examples, in memory."""
        writer = LanguageWriter()
        for each in examples:
            writer.add(each)
        return writer.finished(pad=pad)

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, at: int) -> LanguageExample: ...
    @overload
    def __getitem__(self, at: slice) -> LanguageSequences: ...
    def __getitem__(self, at: int | slice) -> LanguageExample | LanguageSequences:
        if isinstance(at, slice):
            return self.taken(np.arange(len(self))[at])
        row = range(len(self))[at]
        return LanguageExample(self.tokens[row], self.targets.row(row))

    def taken(self, order: Positions) -> LanguageSequences:
        """The examples in another order."""
        return LanguageSequences(self.tokens.taken(order), self.targets.taken(order))


class LanguageWriter:
    """Takes examples one by one. What does not fit in memory is in files of `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._tokens = TokenWriter(folder)
        self._targets = RowWriter(np.int32, folder)

    def add(self, example: LanguageExample) -> None:
        """OSError where the disk is full."""
        self._tokens.add(example.tokens)
        self._targets.add(example.targets)

    def finished(self, *, pad: int) -> LanguageSequences:
        """The examples, filled up with `pad` in batches."""
        return LanguageSequences(self._tokens.finished(pad=pad), self._targets.finished(fill=IGNORED))


def learned_tokens(text: str, offsets: Iterable[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """Which tokens, from `offsets[0]` to `offsets[1]` in the text, begin within one of the spans.

    Many tokenizers join a space with the word behind it: such a token begins where its word does.
    """
    learned = []
    for start, stop in offsets:
        token = text[start:stop]
        begin = start + len(token) - len(token.lstrip()) if token.strip() else start
        learned.append(stop > start and any(first <= begin < last for first, last in spans))
    return learned
