"""Texts as token ids, padded per batch: classes, numbers, rankings, labels of tokens, pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import ModelError
from app.files.problems import first_line
from worker.trainer.data.batch import IGNORED, Batch, Encoded
from worker.trainer.data.padded import PaddedRows, PaddedTokens, Tokens
from worker.trainer.data.sampler import Positions

Row = Mapping[str, Any]
CHUNK = 1024  # texts per call of the tokenizer


class TextExamples:
    """Token sequences with one target each, or one target per token."""

    def __init__(
        self, sequences: Sequence[Tokens], targets: Sequence[Any], *, pad: int, target_dtype: torch.dtype
    ) -> None:
        self.sequences = sequences
        self._tokens = PaddedTokens(sequences, pad=pad)
        self._per_token = len(targets) > 0 and isinstance(targets[0], np.ndarray)
        self._by_row = PaddedRows(targets, fill=IGNORED) if self._per_token else None
        self._whole = None if self._per_token else torch.tensor(list(targets), dtype=target_dtype)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self._tokens.lengths

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        return self._with_targets(self._tokens.batch(positions), positions)

    def outline(self, positions: Positions) -> Batch:
        return self._with_targets(self._tokens.outline(positions), positions)

    def _with_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Batch:
        if self._by_row is not None:
            targets = torch.from_numpy(self._by_row.batch(positions, inputs["input_ids"].shape[1]))
            weight = int((targets != IGNORED).sum())
        else:
            assert self._whole is not None
            targets = self._whole.index_select(0, torch.from_numpy(positions))
            weight = targets.numel()
        tokens = int(self.lengths[positions].sum())
        return Batch(inputs, targets, weight=weight, examples=len(positions), tokens=tokens, rows=positions)


class RankedExamples(TextExamples):
    """Queries with a document each, their scores, and which examples are about the same query."""

    def __init__(
        self, sequences: Sequence[Tokens], scores: Sequence[float], queries: Sequence[str], *, pad: int
    ) -> None:
        super().__init__(sequences, scores, pad=pad, target_dtype=torch.float32)
        numbers = {query: number for number, query in enumerate(dict.fromkeys(queries))}
        self._queries = torch.tensor([numbers[query] for query in queries], dtype=torch.int64)

    def _with_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Batch:
        batch = super()._with_targets(inputs, positions)
        return replace(batch, queries=self._queries.index_select(0, torch.from_numpy(positions)))


class PairExamples:
    """Anchors with their positives. In a batch, the positives of the other anchors are an anchor's negatives."""

    def __init__(self, anchors: Sequence[Tokens], positives: Sequence[Tokens], *, pad: int) -> None:
        self.anchors = anchors
        self.positives = positives
        self._tokens = PaddedTokens([*anchors, *positives], pad=pad)

    lengths = None  # sorting by length would choose the negatives by length

    def __len__(self) -> int:
        return len(self.anchors)

    def batch(self, positions: Positions) -> Batch:
        """Anchors first, then positives, in one forward pass; target i is the positive of anchor i."""
        rows = self._rows(positions)
        return self._of_rows(self._tokens.batch(rows), rows)

    def outline(self, positions: Positions) -> Batch:
        rows = self._rows(positions)
        return self._of_rows(self._tokens.outline(rows), rows)

    def _rows(self, positions: Positions) -> Positions:
        return np.concatenate([positions, positions + len(self)])

    def _of_rows(self, inputs: dict[str, Tensor], rows: Positions) -> Batch:
        count, tokens = len(rows) // 2, int(self._tokens.lengths[rows].sum())
        return Batch(inputs, torch.arange(count), weight=count, examples=count, tokens=tokens, rows=rows)


def encode_texts(rows: Sequence[Row], tokenizer: Any, *, limit: int, regression: bool) -> Encoded[TextExamples]:
    """Encodes rows {"text", "label"[, "text_pair"]}, each cut to `limit` tokens."""
    pairs = [str(row.get("text_pair", "")) for row in rows] if any("text_pair" in row for row in rows) else None
    sequences, truncated = tokenize(tokenizer, [row["text"] for row in rows], pairs, limit=limit)
    dtype = torch.float32 if regression else torch.int64
    labels = [row["label"] for row in rows]
    return Encoded(TextExamples(sequences, labels, pad=pad_id(tokenizer), target_dtype=dtype), truncated)


def encode_ranked(rows: Sequence[Row], tokenizer: Any, *, limit: int) -> Encoded[RankedExamples]:
    """Encodes rows {"query", "document", "score"}: both texts in one sequence, the longer one cut to `limit` tokens."""
    queries, documents = ([row[name] for row in rows] for name in ("query", "document"))
    sequences, truncated = tokenize(tokenizer, queries, documents, limit=limit)
    scores = [row["score"] for row in rows]
    return Encoded(RankedExamples(sequences, scores, queries, pad=pad_id(tokenizer)), truncated)


def encode_words(rows: Sequence[Row], tokenizer: Any, *, limit: int) -> Encoded[TextExamples]:
    """Encodes rows {"tokens", "labels"}: a word's label goes to its first token, its other tokens carry no loss.

    Raises ModelError for a slow tokenizer, which does not say which word a token is of.
    """
    refuse_slow(tokenizer)
    sequences: list[Tokens] = []
    targets: list[NDArray[np.int64]] = []
    truncated = 0

    for row in rows:
        encoded = run(tokenizer, row["tokens"], is_split_into_words=True, truncation=True, max_length=limit)
        words = encoded.word_ids()
        begins = [word is not None and (at == 0 or words[at - 1] != word) for at, word in enumerate(words)]
        labels = [row["labels"][word] if first else IGNORED for word, first in zip(words, begins, strict=True)]
        truncated += max((word for word in words if word is not None), default=-1) < len(row["labels"]) - 1
        sequences.append(_tokens(encoded["input_ids"], encoded.get("token_type_ids")))
        targets.append(np.array(labels, dtype=np.int64))

    return Encoded(TextExamples(sequences, targets, pad=pad_id(tokenizer), target_dtype=torch.int64), truncated)


def encode_pairs(rows: Sequence[Row], tokenizer: Any, *, limit: int) -> Encoded[PairExamples]:
    """Encodes rows {"anchor", "positive"}, each text cut to `limit` tokens."""
    anchors, cut = tokenize(tokenizer, [row["anchor"] for row in rows], None, limit=limit)
    positives, cut_too = tokenize(tokenizer, [row["positive"] for row in rows], None, limit=limit)
    return Encoded(PairExamples(anchors, positives, pad=pad_id(tokenizer)), cut + cut_too)


def tokenize(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, *, limit: int
) -> tuple[list[Tokens], int]:
    """Token ids of each text (with its pair), cut to `limit` tokens with special tokens kept; and how many were cut."""
    sequences: list[Tokens] = []
    truncated = 0
    for at in range(0, len(texts), CHUNK):
        part = slice(at, at + CHUNK)
        both = (list(texts[part]), list(pairs[part])) if pairs else (list(texts[part]),)
        encoded = run(tokenizer, *both, truncation=True, max_length=limit, return_attention_mask=False)
        segments = encoded.get("token_type_ids") or [None] * len(both[0])
        sequences += [_tokens(ids, kinds) for ids, kinds in zip(encoded["input_ids"], segments, strict=True)]
        truncated += _count_cut(tokenizer, both, encoded["input_ids"], limit)
    return sequences, truncated


def pad_id(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id)


def run(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """Calls the tokenizer. ModelError for what the tokenizers library raises as a bare Exception."""
    try:
        return tokenizer(*texts, **options)
    except Exception as error:
        if type(error) is not Exception:
            raise
        reason = first_line(error)
        message = f"the tokenizer cannot encode a text: {reason}; it does not come with the model, or is damaged"
        raise ModelError(message, param="model", code="tokenizer_does_not_fit") from error


def refuse_slow(tokenizer: Any) -> None:
    """Raises ModelError for a tokenizer that cannot say which characters or words its tokens come from."""
    if not tokenizer.is_fast:
        message = (
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where in the text a token begins; "
            "this task needs a fast one (a tokenizer.json in the model's folder)"
        )
        raise ModelError(message, param="model", code="unsupported_tokenizer")


def longest(tokenizer: Any, model: Any, requested: int | None) -> int:
    """The most tokens that an example may have: the least of what request, tokenizer and position table allow."""
    config = model.config
    if not hasattr(config, "max_position_embeddings"):  # of a model that sees pictures, its language model has it
        config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        positions -= _reserved_positions(model)
    limits = [requested, positions, getattr(tokenizer, "model_max_length", None)]
    # Tokenizers without a limit have 10**30, models without one (XLNet) have -1.
    known = [int(limit) for limit in limits if limit and 0 < limit < 10**9]
    return min(known, default=8192)


def _reserved_positions(model: Any) -> int:
    """Positions that no token uses: models such as RoBERTa count from the one after the padding index."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _tokens(ids: Sequence[int], segments: Sequence[int] | None) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int32), None if segments is None else np.array(segments, dtype=np.int32))


def _count_cut(
    tokenizer: Callable[..., Any], texts_and_pairs: Sequence[list[str]], ids: Sequence[Sequence[int]], limit: int
) -> int:
    """How many texts were cut. Only one that fills the limit can be: those few are tokenized again, without a limit."""
    full = [at for at, each in enumerate(ids) if len(each) >= limit]
    if not full:
        return 0
    again = run(
        tokenizer,
        *([texts[at] for at in full] for texts in texts_and_pairs),
        return_attention_mask=False,
        verbose=False,
    )
    return sum(len(each) > limit for each in again["input_ids"])
