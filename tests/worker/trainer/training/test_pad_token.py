"""A classifier over a decoder reads its texts and not their padding, whichever pad tokens model and tokenizer name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from worker.trainer.models.loading import Loaded, load
from worker.trainer.training.tasks import ready_tokenizer

ROWS = [{"text": "the cat", "label": 0}, {"text": "the cat sat on a mat", "label": 1}]


def loaded(folder: Path, *, model_pad: int | None, tokenizer_pad: str | None) -> Loaded:
    tiny.llama(folder, pad_token_id=model_pad)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer_pad
    tokenizer.save_pretrained(folder)
    spec = TransformersSpec(path="tiny", task="text-classification", num_labels=2)
    return load(spec, folder, task="text-classification", labels=["a", "b"], seed=0)


@pytest.mark.parametrize(
    ("model_pad", "tokenizer_pad"), [(0, None), (None, None), (None, "</s>"), (0, "</s>"), (2, "</s>")]
)
def test_a_padded_text_is_read_at_its_end(tmp_path: Path, model_pad: int | None, tokenizer_pad: str | None) -> None:
    ready = loaded(tmp_path, model_pad=model_pad, tokenizer_pad=tokenizer_pad)
    ready_tokenizer(ready, ROWS, task="text-classification")
    model: Any = ready.model.eval()
    texts = [row["text"] for row in ROWS]
    with torch.no_grad():
        together = model(**ready.tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = [model(**ready.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    torch.testing.assert_close(together, torch.stack(alone))


def test_a_changed_pad_token_is_named(tmp_path: Path) -> None:
    notes = ready_tokenizer(loaded(tmp_path, model_pad=0, tokenizer_pad="</s>"), ROWS, task="text-classification")
    assert any("was 0; it is 2 now" in note for note in notes)


def test_a_pad_token_of_the_model_serves_a_tokenizer_without_one(tmp_path: Path) -> None:
    ready = loaded(tmp_path, model_pad=0, tokenizer_pad=None)
    notes = ready_tokenizer(ready, ROWS, task="text-classification")
    assert ready.tokenizer.pad_token_id == 0
    assert any("'<unk>' is used for padding" in note for note in notes)
