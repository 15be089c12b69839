"""Settings: rules for `auto`, ranges, names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.jobs.requests import hyperparameters as requests
from app.specs.hyperparameters import Hyperparameters
from app.specs.optimizers import OptimizerSpec
from worker.trainer.training.hyperparameters import Facts, ResolvedHyperparameters, resolve_auto


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "examples": 1000,
        "pretrained": True,
        "head_only": False,
        "adapter": False,
        "device": "cpu",
    }
    return Facts(**values | changes)


def settle(asked: dict[str, Any], facts: Facts) -> ResolvedHyperparameters:
    return resolve_auto(Hyperparameters.from_json(asked), facts)


def shown(asked: dict[str, Any], facts: Facts) -> dict[str, Any]:
    return settle(asked, facts).shown(Hyperparameters.from_json(asked), facts).to_json()


def auto(**changes: Any) -> ResolvedHyperparameters:
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
    words = {"n_epochs": "auto", "batch_size": None, "lr_schedule": "linear", "warmup_steps": None}
    assert settle(words, facts()) == auto()


def test_every_number_that_auto_chose_is_shown() -> None:
    """What depends on the job, and nothing that the request gave in another way."""
    found = shown({}, facts())
    assert (found["warmup_ratio"], found["weight_decay"], found["max_grad_norm"]) == (0.1, 0.01, 1.0)
    given = {"warmup_steps": 3, "optimizer": {"name": "adamw", "weight_decay": 0.2}}
    assert not {"warmup_ratio", "weight_decay"} & set(shown(given, facts()))
    plain = shown({}, facts(pretrained=False))
    assert (plain["warmup_ratio"], plain["weight_decay"], plain["max_grad_norm"]) == (0.0, 0.0, 0.0)


def test_plain_models_get_plain_settings() -> None:
    """No clipping, no warm-up, a constant rate, no decay."""
    plain = auto(pretrained=False)
    assert (plain.max_grad_norm, plain.warmup_ratio, plain.lr_schedule) == (None, 0.0, "constant")
    assert plain.optimizer == OptimizerSpec(name="adamw", weight_decay=0.0)


def test_accumulation_cuts_the_batch() -> None:
    """batch_size is what one step sees; accumulation says in how many parts."""
    found = settle({"batch_size": 10, "gradient_accumulation_steps": 4}, facts())
    assert (found.batch_size, found.micro_batch_size) == (10, 3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_precision(device: str) -> None:
    """bfloat16 autocast on a GPU."""
    assert auto(device=device).precision == ("bf16" if device == "cuda" else "fp32")


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
        ({"lr_schedule": "cosinus"}, "lr_schedule"),
        ({"warmup_ratio": 2}, "warmup_ratio"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"min_lr_ratio": 2}, "min_lr_ratio"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": {"name": 3}}, "optimizer.name"),
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


def test_all_that_the_api_takes_is_known_here() -> None:
    """A hyperparameter that a request may name, and that no trainer knows, would fail every job that uses it."""
    assert set(requests.HyperparametersRequest.model_fields) == {each.name for each in fields(Hyperparameters)}
    asked: dict[str, Any] = {
        "lr_schedule": "cosine",
        "warmup_ratio": 0.2,
        "min_lr_ratio": 0.1,
        "precision": "bf16",
        "eval_steps": 5,
    }
    assert (
        settle(requests.HyperparametersRequest(**asked).model_dump(exclude_none=True), facts()).lr_schedule == "cosine"
    )


@pytest.mark.parametrize("asked", [{}, {"n_epochs": 2, "learning_rate_multiplier": 3.0}, {"learning_rate": 0.1}])
def test_what_is_shown_settles_to_the_same(asked: dict[str, Any]) -> None:
    """A second attempt starts from the numbers that took the place of "auto"."""
    found = shown(asked, facts())
    assert "auto" not in found.values()
    assert settle(found, facts()) == settle(asked, facts())
