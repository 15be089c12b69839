"""What makes two jobs' results the same, and what makes them others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from worker.trainer import determinism
from worker.trainer.prefix.cut import Cut
from worker.trainer.training import prefix_address
from worker.trainer.training.prefix_request import PrefixRequest


class Fixed:
    """A prefix of a model, as far as its address looks at it."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut


def bert(**changes: Any) -> nn.Module:
    sizes: dict[str, Any] = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**sizes, num_hidden_layers=1, **changes))


def key(model: nn.Module, *, digests: dict[str, str] | None = None, **changes: Any) -> str:
    options: dict[str, Any] = {
        "setting": "auto", "model": model, "plan": None, "live": {}, "compute": None, "parts": {}, "size": 8,
        "passes": 1, "reuse": True, "device": torch.device("cpu"), "precision": "fp32",
    }  # fmt: skip
    request = PrefixRequest(**(options | changes))
    return prefix_address.key(request, Fixed(Cut((), 1.0, 1.0)), digests or {"a": "0"})  # type: ignore[arg-type]


def test_a_second_head_is_no_other_prefix() -> None:
    """Labels and where a model came from are no part of it."""
    assert key(bert()) == key(bert(num_labels=7, name_or_path="elsewhere"))


@pytest.mark.parametrize(
    "changes",
    [{"digests": {"a": "1"}}, {"digests": {"b": "0"}}, {"size": 9}, {"precision": "bf16"}],
    ids=["bytes", "names", "rows at a time", "precision"],
)
def test_what_the_results_depend_on(changes: dict[str, Any]) -> None:
    assert key(bert()) != key(bert(), **changes)


def test_the_configuration_counts() -> None:
    """It says what no tensor shows."""
    assert key(bert()) != key(bert(layer_norm_eps=1e-6))


@pytest.mark.parametrize("package", prefix_address.VERSIONED)
def test_versions_count(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = key(bert()), prefix_address._version
    monkeypatch.setattr(prefix_address, "_version", lambda name: "0" if name == package else known(name))
    assert key(bert()) != before


def test_the_processor_and_the_threads_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(bert())
    monkeypatch.setattr(determinism, "processor", lambda: "another")
    assert key(bert()) != before


def test_code_without_a_version_counts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's model: by the bytes of its file."""
    path, keys = tmp_path / "plugin_of_a_test.py", []
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in ("+ 1", "+ 1", "+ 2"):
        path.write_text(
            f"from torch import nn\n\nclass Own(nn.Module):\n    def forward(self, x):\n        return x {text}\n"
        )
        module = __import__("plugin_of_a_test")
        keys.append(key(module.Own()))
    assert keys[0] == keys[1] != keys[2]


def test_code_that_cannot_be_read_is_never_the_same() -> None:
    """A class without a file."""
    scope: dict[str, Any] = {"nn": nn, "__name__": "nowhere"}
    exec("class Own(nn.Module): pass", scope)
    assert key(scope["Own"]()) != key(scope["Own"]())
