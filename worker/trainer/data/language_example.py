"""One tokenized text, some tokens of which carry loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.batch import IGNORED
from worker.trainer.data.chat_template import Span
from worker.trainer.data.padded import Tokens


@dataclass(frozen=True, slots=True)
class LanguageExample:
    """Token ids of one example; `targets` repeats the id where it carries loss, and is `IGNORED` elsewhere."""

    tokens: Tokens
    targets: NDArray[np.int64]

    @property
    def learns(self) -> bool:
        """Whether any token carries loss. The first one never does: nothing comes before it."""
        return bool((self.targets[1:] != IGNORED).any())

    def cut(self, limit: int) -> LanguageExample:
        """The first `limit` tokens."""
        return LanguageExample(Tokens(self.tokens.ids[:limit]), self.targets[:limit])


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
