"""Texts as token ids, padded per batch: classes, numbers, rankings, labels of tokens, pairs."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import ModelError
from app.files.problems import first_line
from worker.trainer.data.batch import IGNORED, Batch, Encoded
from worker.trainer.data.padded import PaddedRows, PaddedTokens, RowWriter, Tokens, TokenWriter
from worker.trainer.data.sampler import Positions

Row = Mapping[str, Any]
CHUNK = 1024  # texts per call of the tokenizer
KEY_BYTES = 16  # of a digest that stands for a query


class TextExamples:
    """Token sequences with one target each, or one target per token."""

    def __init__(self, sequences: PaddedTokens, targets: PaddedRows | Tensor) -> None:
        self.sequences = sequences
        self._targets = targets

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.sequences.lengths

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, positions: Positions) -> Batch:
        return self._with_targets(self.sequences.batch(positions), positions)

    def outline(self, positions: Positions) -> Batch:
        return self._with_targets(self.sequences.outline(positions), positions)

    def _with_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Batch:
        if isinstance(self._targets, PaddedRows):
            targets = torch.from_numpy(self._targets.batch(positions, inputs["input_ids"].shape[1]))
            weight = int((targets != IGNORED).sum())
        else:
            targets = self._targets.index_select(0, torch.from_numpy(positions))
            weight = targets.numel()
        return Batch(inputs, targets, weight=weight, examples=len(positions), rows=positions)


class RankedExamples(TextExamples):
    """Queries with a document each, their scores, and which examples are about the same query."""

    def __init__(self, sequences: PaddedTokens, scores: Tensor, queries: Tensor) -> None:
        super().__init__(sequences, scores)
        self._queries = queries

    def _with_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Batch:
        batch = super()._with_targets(inputs, positions)
        return replace(batch, queries=self._queries.index_select(0, torch.from_numpy(positions)))


class PairExamples:
    """Anchors with their positives. In a batch, the positives of the other anchors are an anchor's negatives."""

    def __init__(self, sequences: PaddedTokens) -> None:
        """`sequences` are all anchors, and then all positives."""
        self.sequences = sequences

    lengths = None  # sorting by length would choose the negatives by length

    def __len__(self) -> int:
        return len(self.sequences) // 2

    def batch(self, positions: Positions) -> Batch:
        """Anchors first, then positives, in one forward pass; target i is the positive of anchor i."""
        rows = self._rows(positions)
        return self._of_rows(self.sequences.batch(rows), rows)

    def outline(self, positions: Positions) -> Batch:
        rows = self._rows(positions)
        return self._of_rows(self.sequences.outline(rows), rows)

    def _rows(self, positions: Positions) -> Positions:
        return np.concatenate([positions, positions + len(self)])

    def _of_rows(self, inputs: dict[str, Tensor], rows: Positions) -> Batch:
        count = len(rows) // 2
        return Batch(inputs, torch.arange(count), weight=count, examples=count, rows=rows)


def encode_texts(
    rows: Sequence[Row], tokenizer: Any, *, limit: int, regression: bool, folder: Path | None = None
) -> Encoded[TextExamples]:
    """Encodes rows {"text", "label"[, "text_pair"]}, each cut to `limit` tokens.

    Tokens that do not fit in memory are in files of `folder`, here and below.
    """
    paired = any("text_pair" in row for row in rows)
    sequences, truncated, labels = TokenWriter(folder), 0, array("d" if regression else "q")
    for part in _chunks(rows):
        pairs = [str(row.get("text_pair", "")) for row in part] if paired else None
        truncated += tokenize(tokenizer, [row["text"] for row in part], pairs, limit=limit, into=sequences)
        labels.extend(row["label"] for row in part)
    targets = torch.from_numpy(np.array(labels)).to(torch.float32 if regression else torch.int64)
    return Encoded(TextExamples(sequences.finished(pad=pad_id(tokenizer)), targets), truncated)


def encode_ranked(
    rows: Sequence[Row], tokenizer: Any, *, limit: int, folder: Path | None = None
) -> Encoded[RankedExamples]:
    """Encodes rows {"query", "document", "score"}: both texts in one sequence, the longer one cut to `limit` tokens."""
    sequences, truncated, scores, keys = TokenWriter(folder), 0, array("d"), bytearray()
    for part in _chunks(rows):
        queries, documents = ([row[name] for row in part] for name in ("query", "document"))
        truncated += tokenize(tokenizer, queries, documents, limit=limit, into=sequences)
        scores.extend(row["score"] for row in part)
        keys += b"".join(_key(query) for query in queries)
    targets = torch.from_numpy(np.array(scores)).to(torch.float32)
    examples = RankedExamples(sequences.finished(pad=pad_id(tokenizer)), targets, _numbers(keys))
    return Encoded(examples, truncated)


def encode_words(
    rows: Sequence[Row], tokenizer: Any, *, limit: int, folder: Path | None = None
) -> Encoded[TextExamples]:
    """Encodes rows {"tokens", "labels"}: a word's label goes to its first token, its other tokens carry no loss.

    Raises ModelError for a slow tokenizer, which does not say which word a token is of.
    """
    refuse_slow(tokenizer)
    sequences, targets = TokenWriter(folder), RowWriter(np.int32, folder)
    truncated = 0

    for row in rows:
        encoded = run(tokenizer, row["tokens"], is_split_into_words=True, truncation=True, max_length=limit)
        words = encoded.word_ids()
        begins = [word is not None and (at == 0 or words[at - 1] != word) for at, word in enumerate(words)]
        labels = [row["labels"][word] if first else IGNORED for word, first in zip(words, begins, strict=True)]
        truncated += max((word for word in words if word is not None), default=-1) < len(row["labels"]) - 1
        sequences.add(_tokens(encoded["input_ids"], encoded.get("token_type_ids")))
        targets.add(np.array(labels, dtype=np.int32))

    examples = TextExamples(sequences.finished(pad=pad_id(tokenizer)), targets.finished(fill=IGNORED))
    return Encoded(examples, truncated)


def encode_pairs(
    rows: Sequence[Row], tokenizer: Any, *, limit: int, folder: Path | None = None
) -> Encoded[PairExamples]:
    """Encodes rows {"anchor", "positive"}, each text cut to `limit` tokens."""
    sequences, truncated = encode_fields(rows, ("anchor", "positive"), tokenizer, limit=limit, folder=folder)
    return Encoded(PairExamples(sequences), truncated)


def encode_fields(
    rows: Sequence[Row], names: Sequence[str], tokenizer: Any, *, limit: int, folder: Path | None
) -> tuple[PaddedTokens, int]:
    """The tokens of the first field of all rows, then those of the next, each cut to `limit`; and how many were cut."""
    sequences, truncated = TokenWriter(folder), 0
    for name in names:
        for part in _chunks(rows):
            truncated += tokenize(tokenizer, [row[name] for row in part], None, limit=limit, into=sequences)
    return sequences.finished(pad=pad_id(tokenizer)), truncated


def tokenize(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, *, limit: int, into: TokenWriter
) -> int:
    """Writes the token ids of each text (with its pair), cut to `limit` tokens with special tokens kept.

    Returns how many were cut.
    """
    both = (list(texts),) if pairs is None else (list(texts), list(pairs))
    encoded = run(tokenizer, *both, truncation=True, max_length=limit, return_attention_mask=False)
    segments = encoded.get("token_type_ids") or [None] * len(texts)
    for ids, kinds in zip(encoded["input_ids"], segments, strict=True):
        into.add(_tokens(ids, kinds))
    return _count_cut(tokenizer, both, encoded["input_ids"], limit)


def _chunks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """As many rows as a call of the tokenizer takes."""
    every = iter(rows)
    while part := list(islice(every, CHUNK)):
        yield part


def _key(query: str) -> bytes:
    return hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _numbers(keys: bytes | bytearray) -> Tensor:
    """A number for each key, equal for equal ones, in the order in which they first occur."""
    halves = np.frombuffer(keys, dtype=np.dtype([("high", "u8"), ("low", "u8")]))
    _, first, of = np.unique(halves, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[of])


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
