"""Checks encoded texts against the model's embeddings, and that they hold more than special and unknown tokens.

A trial of two examples says nothing about line 700: one id without a row would crash there, in the middle of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from app.errors import ModelError
from app.files import formats
from app.files.problems import LineProblem
from worker.trainer.data.batch import Examples
from worker.trainer.data.captioned import CaptionedPictures
from worker.trainer.data.image_text import ImageTextExamples
from worker.trainer.data.language import LanguageExamples
from worker.trainer.data.padded import Tokens
from worker.trainer.data.preference import PreferenceExamples
from worker.trainer.data.text import PairExamples, TextExamples
from worker.trainer.models import embeddings

CODE = "tokenizer_does_not_fit"
#: The share of examples without a single known word from which on the tokenizer is taken to be the wrong one.
MOSTLY = 0.5


def check(examples: Examples, model: nn.Module, tokenizer: Any, *, lines: Sequence[int], param: str) -> tuple[str, ...]:
    """Raises ModelError where an id has no row in the model's embeddings, or most examples hold no known word.

    Returns notes for the job's events. `lines` has the line of each example in the file that `param` names.
    """
    rows = embeddings.fewest_rows(model)
    notes = () if rows is None else _refuse_ids(examples, tokenizer, rows=rows, lines=lines, param=param)
    _refuse_segments(examples, model, lines=lines, param=param)
    _refuse_ends(examples, model, tokenizer, lines=lines, param=param)
    return (*notes, *_empty_examples(examples, tokenizer, param=param))


def _refuse_ids(examples: Examples, tokenizer: Any, *, rows: int, lines: Sequence[int], param: str) -> tuple[str, ...]:
    """A note where the tokenizer has ids without a row that no example uses; ModelError where one does."""
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= rows:
        message = (
            f"the tokenizer's pad token {tokenizer.pad_token!r} has the id {pad}, and the model's embeddings have "
            f"{rows} rows; resize the embeddings, or set a pad token that the model knows"
        )
        raise ModelError(message, param="model", code=CODE)

    last = max(tokenizer.get_vocab().values(), default=-1)
    for at, tokens in _tokens(examples):
        largest = int(tokens.ids.max(initial=-1))
        if largest >= rows:
            message = (
                f"the tokenizer has ids up to {last}, and the model's embeddings have {rows} rows: line {lines[at]} of "
                f"the {param} has {tokenizer.convert_ids_to_tokens(largest)!r}, the id {largest}; resize the "
                "embeddings, or take the tokenizer that belongs to the model and add words by new_tokens"
            )
            raise ModelError(message, param="model", code=CODE)

    if last < rows:
        return ()
    return (f"the tokenizer has ids up to {last}, beyond the {rows} rows of the embeddings; no example uses them",)


def _refuse_segments(examples: Examples, model: nn.Module, *, lines: Sequence[int], param: str) -> None:
    """Raises ModelError where the tokenizer numbers more segments of a text than the model has embeddings for."""
    tables = [module for name, module in model.named_modules() if name.endswith("token_type_embeddings")]
    rows = min((table.num_embeddings for table in tables if isinstance(table, nn.Embedding)), default=None)
    if rows is None:
        return
    for at, tokens in _tokens(examples):
        largest = -1 if tokens.segments is None else int(tokens.segments.max(initial=-1))
        if largest >= rows:
            message = (
                f"the tokenizer gives line {lines[at]} of the {param} the segment {largest}, and the model has "
                f"{rows} token types; take the tokenizer that belongs to the model"
            )
            raise ModelError(message, param="model", code=CODE)


def _refuse_ends(examples: Examples, model: Any, tokenizer: Any, *, lines: Sequence[int], param: str) -> None:
    """Refuses texts without the end token, or with several, where the model reads a text at that token.

    Classifiers over an encoder and a decoder do, such as those of BART and T5. ModelError where no text has one;
    DataError, by line, where some have more than the others.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(examples, TextExamples) or not hasattr(plain, "classification_head"):
        return
    end = getattr(plain.config, "eos_token_id", None)
    if not plain.config.is_encoder_decoder or end is None:
        return

    counts = [int((tokens.ids == end).sum()) for _, tokens in _tokens(examples)]
    token = tokenizer.convert_ids_to_tokens(end)
    if not any(counts):
        message = (
            f"the model reads a text at its end token {token!r}, the id {end}, and the tokenizer writes none; take the "
            "tokenizer that belongs to the model"
        )
        raise ModelError(message, param="model", code=CODE)

    usual = Counter(counts).most_common(1)[0][0]
    others = f"end tokens {token!r}, and the other texts have {usual}; the model reads a text at this token"
    problems = [
        LineProblem(line, "text", "end_token", f"has {count} {others}")
        for line, count in zip(lines, counts, strict=True)
        if count != usual
    ]
    if problems:
        raise formats.refusal(problems, param=param)


def _empty_examples(examples: Examples, tokenizer: Any, *, param: str) -> tuple[str, ...]:
    """A note on the share of examples that are special and unknown tokens alone; ModelError where most are."""
    meaningful = np.ones(
        1 + max((int(each.ids.max(initial=0)) for _, each in _tokens(examples)), default=0), dtype=bool
    )
    marks = [*tokenizer.all_special_ids, tokenizer.unk_token_id]
    meaningful[[mark for mark in marks if mark is not None and mark < len(meaningful)]] = False
    known = np.zeros(len(examples), dtype=bool)
    for at, tokens in _tokens(examples):
        known[at] |= meaningful[tokens.ids].any()

    empty = int((~known).sum())
    if not empty:
        return ()

    share = f"{empty} of {len(examples)} examples of the {param} ({empty / len(examples):.0%})"
    if empty > MOSTLY * len(examples):
        message = (
            f"{share} are special and unknown tokens alone to this tokenizer, {type(tokenizer).__name__} with "
            f"{len(tokenizer)} tokens: it is not the model's own, or it is for another language"
        )
        raise ModelError(message, param="model", code=CODE)
    return (f"{share} are special and unknown tokens alone: nothing can be learned from them",)


def _tokens(examples: Examples) -> Iterator[tuple[int, Tokens]]:
    """Every token sequence with the number of its example; an example may have two."""
    if isinstance(examples, TextExamples):
        yield from enumerate(examples.sequences)
    elif isinstance(examples, LanguageExamples | ImageTextExamples):
        yield from enumerate(each.tokens for each in examples.sequences)
    elif isinstance(examples, PreferenceExamples):
        yield from ((at % len(examples), each.tokens) for at, each in enumerate(examples.both.sequences))
    elif isinstance(examples, CaptionedPictures):
        yield from enumerate(examples.texts)
    elif isinstance(examples, PairExamples):
        yield from ((at % len(examples), each) for at, each in enumerate(examples.sequences))
