"""What of a configuration is refused, in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ModelError
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from worker.trainer.models import loading, model_config

SPEC = TransformersSpec(path="tiny")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        loading.load(SPEC, folder, task="causal-lm", labels=None, seed=0)
    return refused.value.message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_act": "gelo"}, "config.json: hidden_act is 'gelo', which it does not know"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
    ],
    ids=["a name that nothing has", "a division by it"],
)
def test_the_value_that_is_wrong_is_named(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    """transformers says the value of a failed look-up alone, and of a division nothing."""
    path = tiny.llama(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"], ids=["no JSON", "a list"])
def test_generation_config_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    """transformers takes one that is no JSON for a missing one, and the result would have it."""
    tiny.llama(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    assert refusal(tmp_path).startswith("generation_config.json ")


def test_classes_of_a_labelled_head(tmp_path: Path) -> None:
    """In the order of their numbers; names that transformers makes up are none."""
    names = {str(index): name for index, name in enumerate("abcdefghijkl")}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(sorted(names.items()))}))
    assert model_config.label_names(tmp_path) == tuple("abcdefghijkl")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert model_config.label_names(tmp_path) is None


@pytest.mark.parametrize("length", ["512", 0], ids=["a text", "zero"])
def test_longest_text_of_a_tokenizer(tmp_path: Path, length: object) -> None:
    """Named by its key, and not met while the data is read."""
    path = tiny.llama(tmp_path) / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": length}))
    assert f"model_max_length is {length!r}" in refusal(tmp_path)
