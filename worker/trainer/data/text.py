"""Text to token ids, padded per batch: sequence classification and regression, token classification, pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.trainer.data.batch import IGNORED, Batch
from worker.trainer.data.sampler import Positions

Row = Mapping[str, Any]
Ids = NDArray[np.int32]
CHUNK = 1024  # texts per call of the tokenizer


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text; segment ids where the tokenizer makes them."""

    ids: Ids
    segments: Ids | None = None


class TextExamples:
    """Token sequences with one target each, or one target per token."""

    def __init__(
        self, sequences: Sequence[Tokens], targets: Sequence[Any], *, pad: int, target_dtype: torch.dtype
    ) -> None:
        self.sequences = sequences
        self.targets = targets
        self.pad = pad
        self.target_dtype = target_dtype
        self.lengths = np.array([len(each.ids) for each in sequences], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        chosen = [self.sequences[at] for at in positions]
        inputs = pad_tokens(chosen, pad=self.pad)
        tokens = int(self.lengths[positions].sum())
        wanted = [self.targets[at] for at in positions]
        if isinstance(wanted[0], np.ndarray):
            targets = pad_targets(wanted, width=inputs["input_ids"].shape[1])
            weight = int((targets != IGNORED).sum())
        else:
            targets = torch.tensor(wanted, dtype=self.target_dtype)
            weight = targets.numel()
        return Batch(inputs, targets, weight=weight, examples=len(chosen), tokens=tokens, rows=positions)


class PairExamples:
    """Anchors and positives: in a batch, every other positive is a negative."""

    def __init__(self, anchors: Sequence[Tokens], positives: Sequence[Tokens], *, pad: int) -> None:
        self.anchors = anchors
        self.positives = positives
        self.pad = pad
        self._tokens = np.array(
            [len(a.ids) + len(b.ids) for a, b in zip(anchors, positives, strict=True)], dtype=np.int64
        )

    lengths = None  # bucketing would choose the negatives by length

    def __len__(self) -> int:
        return len(self.anchors)

    def batch(self, positions: Positions) -> Batch:
        """Anchors first, then positives, in one forward pass; target i is the positive of anchor i."""
        chosen = [self.anchors[at] for at in positions] + [self.positives[at] for at in positions]
        count = len(positions)
        tokens = int(self._tokens[positions].sum())
        return Batch(
            pad_tokens(chosen, pad=self.pad),
            torch.arange(count),
            weight=count,
            examples=count,
            tokens=tokens,
            rows=np.concatenate([positions, positions + len(self)]),
        )


def encode_texts(rows: Sequence[Row], tokenizer: Any, *, limit: int, regression: bool) -> tuple[TextExamples, int]:
    """Rows {"text", "label"[, "text_pair"]} and how many were longer than `limit` tokens."""
    pairs = [str(row.get("text_pair", "")) for row in rows] if any("text_pair" in row for row in rows) else None
    sequences, truncated = tokenize(tokenizer, [row["text"] for row in rows], pairs, limit=limit)
    dtype = torch.float32 if regression else torch.int64
    return TextExamples(sequences, [row["label"] for row in rows], pad=pad_id(tokenizer), target_dtype=dtype), truncated


def encode_words(rows: Sequence[Row], tokenizer: Any, *, limit: int) -> tuple[TextExamples, int]:
    """Rows {"tokens", "labels"}: a word's label goes to its first token, the others carry no loss."""
    sequences: list[Tokens] = []
    targets: list[NDArray[np.int64]] = []
    truncated = 0
    for row in rows:
        encoded = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=limit)
        words = encoded.word_ids()
        first = [word is not None and (at == 0 or words[at - 1] != word) for at, word in enumerate(words)]
        wanted = [row["labels"][word] if begins else IGNORED for word, begins in zip(words, first, strict=True)]
        truncated += max((word for word in words if word is not None), default=-1) < len(row["labels"]) - 1
        sequences.append(_tokens(encoded["input_ids"], encoded.get("token_type_ids")))
        targets.append(np.array(wanted, dtype=np.int64))
    return TextExamples(sequences, targets, pad=pad_id(tokenizer), target_dtype=torch.int64), truncated


def encode_pairs(rows: Sequence[Row], tokenizer: Any, *, limit: int) -> tuple[PairExamples, int]:
    """Rows {"anchor", "positive"}."""
    anchors, cut = tokenize(tokenizer, [row["anchor"] for row in rows], None, limit=limit)
    positives, cut_too = tokenize(tokenizer, [row["positive"] for row in rows], None, limit=limit)
    return PairExamples(anchors, positives, pad=pad_id(tokenizer)), cut + cut_too


def tokenize(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, *, limit: int
) -> tuple[list[Tokens], int]:
    """Each text (with its pair) cut to `limit` tokens, special tokens kept, and how many were cut."""
    found: list[Tokens] = []
    truncated = 0
    for at in range(0, len(texts), CHUNK):
        part = slice(at, at + CHUNK)
        both = (list(texts[part]), list(pairs[part])) if pairs else (list(texts[part]),)
        encoded = tokenizer(*both, truncation=True, max_length=limit, return_attention_mask=False)
        segments = encoded.get("token_type_ids") or [None] * len(both[0])
        found += [_tokens(ids, kinds) for ids, kinds in zip(encoded["input_ids"], segments, strict=True)]
        truncated += _count_cut(tokenizer, both, encoded["input_ids"], limit)
    return found, truncated


def pad_tokens(sequences: Sequence[Tokens], *, pad: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and, where there are segments, token_type_ids: each (batch, width)."""
    lengths = [len(each.ids) for each in sequences]
    width = max(lengths)
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, each in enumerate(sequences):
        ids[row, : len(each.ids)] = each.ids
        mask[row, : len(each.ids)] = 1
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if sequences[0].segments is not None:
        kinds = np.zeros((len(sequences), width), dtype=np.int64)
        for row, each in enumerate(sequences):
            kinds[row, : len(each.ids)] = 0 if each.segments is None else each.segments
        inputs["token_type_ids"] = torch.from_numpy(kinds)
    return inputs


def pad_targets(targets: Sequence[NDArray[np.int64]], *, width: int) -> Tensor:
    padded = np.full((len(targets), width), IGNORED, dtype=np.int64)
    for row, each in enumerate(targets):
        padded[row, : len(each)] = each
    return torch.from_numpy(padded)


def pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id)


def longest(tokenizer: Any, model: Any, asked: int | None) -> int:
    """The most tokens an example may have: what the request, the tokenizer and the model's positions allow."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions > 0:
        positions -= _reserved_positions(model)
    limits = [asked, positions, getattr(tokenizer, "model_max_length", None)]
    # Tokenizers without a limit say 10**30, models without one (XLNet) say -1.
    known = [int(each) for each in limits if each and 0 < each < 10**9]
    return min(known, default=8192)


def _reserved_positions(model: Any) -> int:
    """RoBERTa and its kin count positions from behind the padding index."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _tokens(ids: Sequence[int], segments: Sequence[int] | None) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int32), None if segments is None else np.array(segments, dtype=np.int32))


def _count_cut(
    tokenizer: Callable[..., Any], both: Sequence[list[str]], ids: Sequence[Sequence[int]], limit: int
) -> int:
    """Only a text that fills the limit can have been cut: those few are measured again, uncut."""
    full = [at for at, each in enumerate(ids) if len(each) >= limit]
    if not full:
        return 0
    again = tokenizer(*([texts[at] for at in full] for texts in both), return_attention_mask=False, verbose=False)
    return sum(len(each) > limit for each in again["input_ids"])
