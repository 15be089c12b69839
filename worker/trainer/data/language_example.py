"""One tokenized text, some tokens of which carry loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.batch import IGNORED
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
