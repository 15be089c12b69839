"""Settings: rules for `auto`, ranges, names."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest
from worker.trainer.training.hyperparameters import Facts, Settings, settle


def facts(**changes: Any) -> Facts:
    fields = {"examples": 1000, "pretrained": True, "head_only": False, "adapter": False, "device": "cpu"}
    return Facts(**fields | changes)


def auto(**changes: Any) -> Settings:
    return settle({}, facts(**changes))


@pytest.mark.parametrize(
    ("examples", "epochs"), [(1, 25), (10, 10), (33, 4), (34, 3), (1000, 3), (10_000, 2), (10**6, 1)]
)
def test_auto_epochs(examples: int, epochs: int) -> None:
    """Few examples are seen more often, many less often."""
    assert auto(examples=examples).n_epochs == epochs


@pytest.mark.parametrize(("examples", "batch"), [(3, 3), (100, 16), (10_000, 32), (50_000, 128), (10**6, 256)])
def test_auto_batch(examples: int, batch: int) -> None:
    """0.2% of the examples as a power of two, within bounds."""
    assert auto(examples=examples).batch_size == batch


@pytest.mark.parametrize(
    ("changes", "rate"),
    [({}, 5e-5), ({"head_only": True}, 1e-3), ({"adapter": True}, 2e-4), ({"pretrained": False}, 1e-2)],
)
def test_auto_learning_rate(changes: dict[str, Any], rate: float) -> None:
    """By what trains; the multiplier multiplies."""
    assert auto(**changes).learning_rate == rate
    assert settle({"learning_rate_multiplier": 2.0}, facts(**changes)).learning_rate == 2 * rate


def test_auto_and_absent_and_null_mean_the_same() -> None:
    """OpenAI's clients send all three."""
    words = {"n_epochs": "auto", "batch_size": None, "scheduler": {"name": "linear", "warmup_steps": None}}
    assert settle(words, facts()) == auto()


def test_plain_models_get_plain_settings() -> None:
    """No clipping, no warm-up, a constant rate, no decay."""
    plain = auto(pretrained=False)
    assert (plain.max_grad_norm, plain.warmup_ratio, plain.schedule) == (None, 0.0, "constant")
    assert plain.optimizer == {"name": "adamw", "weight_decay": 0.0}


def test_accumulation_cuts_the_batch() -> None:
    """batch_size is what one step sees; accumulation says in how many parts."""
    found = settle({"batch_size": 10, "gradient_accumulation_steps": 4}, facts())
    assert (found.batch_size, found.micro_batch_size) == (10, 3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_precision(device: str) -> None:
    """bfloat16 autocast on a GPU."""
    assert auto(device=device).precision == ("bfloat16" if device == "cuda" else "float32")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"n_epochs": 0}, "n_epochs"),
        ({"n_epochs": 1.5}, "n_epochs"),
        ({"batch_size": True}, "batch_size"),
        ({"batch_size": 4, "micro_batch_size": 5}, "micro_batch_size"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"scheduler": {"name": "cosinus"}}, "scheduler.name"),
        ({"scheduler": {"nmae": "cosine"}}, "scheduler.nmae"),
        ({"scheduler": {"warmup_ratio": 2}}, "scheduler.warmup_ratio"),
        ({"scheduler": {"warmup_steps": -1}}, "scheduler.warmup_steps"),
        ({"scheduler": 3}, "scheduler"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": {"name": 3}}, "optimizer"),
        ({"precision": "int4"}, "precision"),
        ({"length_bucketing": 1}, "length_bucketing"),
        ({"validation_fraction": 0.95}, "validation_fraction"),
        ({"warmup": 3}, "warmup"),
    ],
)
def test_wrong_values_are_named(asked: dict[str, Any], param: str) -> None:
    """param is the path of the hyperparameter that is wrong."""
    with pytest.raises(InvalidRequest) as refused:
        settle(asked, facts())
    assert str(refused.value.param).endswith(param)
