"""A text of which some tokens are learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.trainer.data.text import Tokens


@dataclass(frozen=True, slots=True)
class LanguageExample:
    """One example's ids, and per position the id that carries loss there, or `IGNORED`."""

    tokens: Tokens
    targets: NDArray[np.int64]
