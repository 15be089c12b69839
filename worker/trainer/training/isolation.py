"""Tries whether a model keeps the examples of a packed row apart, as packing requires."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import InvalidRequest
from worker.trainer.data.language_example import LanguageExample
from worker.trainer.data.padded import Tokens

#: Of the largest logit. Rows of equal shape take equal ways through the arithmetic; a row of another width does not.
EQUAL = {torch.float32: 1e-5, torch.float64: 1e-5}
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 3e-2  # both, in half precision
MAX_TOKENS = 64

Logits = Callable[[dict[str, Tensor]], Tensor]


@torch.no_grad()
def refuse_leaks(model: nn.Module, logits: Logits, one: LanguageExample, other: LanguageExample) -> None:
    """InvalidRequest unless `other` gets the same logits behind `one`, behind another text, and by itself."""
    model.eval()
    first, second = _short(one), _short(other)
    behind = _behind(logits, first, second)
    stranger = _behind(logits, _altered(first, model), second)
    alone = _behind(logits, None, second)
    model.train()
    dtype = next(model.parameters()).dtype
    if _apart(behind, stranger) > EQUAL.get(dtype, COARSE):
        raise _refusal(model, "lets an example see the one before it")
    if _apart(behind, alone) > CLOSE.get(dtype, COARSE):
        raise _refusal(model, "does not let an example begin at position 0 within a row")


def _behind(logits: Logits, first: LanguageExample | None, second: LanguageExample) -> Tensor:
    """The logits of `second` in a row that `first` begins."""
    before, length = (len(first.tokens.ids) if first else 0), len(second.tokens.ids)
    ids = np.concatenate([*([first.tokens.ids] if first else []), second.tokens.ids])
    places = np.concatenate([np.arange(before), np.arange(length)])
    row = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], "position_ids": torch.from_numpy(places)[None]}
    found: Tensor = logits(row)[0, before:].float()
    return found


def _altered(passage: LanguageExample, model: nn.Module) -> LanguageExample:
    """The passage with another token at every position."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    vocabulary = getattr(embedding, "num_embeddings", int(passage.tokens.ids.max()) + 2)
    return LanguageExample(Tokens((passage.tokens.ids + 1) % vocabulary), passage.targets)


def _short(passage: LanguageExample) -> LanguageExample:
    return LanguageExample(Tokens(passage.tokens.ids[:MAX_TOKENS]), passage.targets[:MAX_TOKENS])


def _apart(one: Tensor, other: Tensor) -> float:
    scale = max(one.abs().max().item(), other.abs().max().item(), 1e-30)
    return (one - other).abs().max().item() / scale


def _refusal(model: nn.Module, why: str) -> InvalidRequest:
    message = f"packing is not offered for {type(model).__name__}: it {why}; leave packing out"
    return InvalidRequest(message, param="hyperparameters.packing")
