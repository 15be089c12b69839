"""What does not fit together: each rule by itself, with the path of the option that breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest, PolicyError
from app.specs.adapters import AdapterSpec, Ia3Spec, LoraSpec, PromptTuningSpec
from app.specs.hyperparameters import Hyperparameters
from app.specs.rules import refuse_adapter, refuse_small_micro_batch, refuse_task_conflicts


def refusal(task: str, *, adapter: AdapterSpec | None = None, validated: bool = False, **options: Any) -> str | None:
    """The param that is refused, if any."""
    try:
        refuse_task_conflicts(Hyperparameters(**options), task, adapter=adapter, validated=validated)
    except InvalidRequest as error:
        return error.param
    return None


@pytest.mark.parametrize(
    ("task", "options", "param"),
    [
        ("causal-lm", {"packing": True}, None),
        ("pairs", {"packing": True}, "hyperparameters.packing"),
        ("pairs", {"packing": False}, None),
        ("pairs", {"padding_free": True}, None),
        ("image-classification", {"padding_free": True}, "hyperparameters.padding_free"),
        ("image-classification", {"padding_free": "auto"}, None),
        ("causal-lm", {"padding_free": True, "packing": True}, "hyperparameters.padding_free"),
        ("causal-lm", {"padding_free": "auto", "packing": True}, None),
        ("preference", {"beta": "auto"}, None),
        ("causal-lm", {"beta": 0.1}, "hyperparameters.beta"),
        ("pairs", {"temperature": 0.1}, None),
        ("tabular-regression", {"temperature": 0.1}, "hyperparameters.temperature"),
        ("tabular-classification", {"label_smoothing": 0.1}, None),
        ("tabular-regression", {"label_smoothing": 0.1}, "hyperparameters.label_smoothing"),
        ("image-classification", {"max_length": 9}, "hyperparameters.max_length"),
        ("image-text", {"max_length": 9}, None),
        ("image-text", {"packing": True}, "hyperparameters.packing"),
        ("image-text", {"padding_free": True}, "hyperparameters.padding_free"),
        ("image-text", {"compile": True}, "hyperparameters.compile"),
        ("contrastive-image-text", {"max_length": 9}, None),
        ("contrastive-image-text", {"padding_free": True}, "hyperparameters.padding_free"),
        ("contrastive-image-text", {"compile": True}, "hyperparameters.compile"),
        ("contrastive-image-text", {"gradient_accumulation_steps": 2}, "hyperparameters.gradient_accumulation_steps"),
        ("contrastive-image-text", {"batch_size": 1}, "hyperparameters.batch_size"),
        ("text-ranking", {"max_length": 9, "padding_free": True}, None),
        ("text-ranking", {"label_smoothing": 0.1}, "hyperparameters.label_smoothing"),
        ("pairs", {"batch_size": 1}, "hyperparameters.batch_size"),
        ("pairs", {"batch_size": 2}, None),
        ("text-ranking", {"batch_size": 1}, None),
        ("pairs", {"gradient_accumulation_steps": 1}, None),
        ("pairs", {"gradient_accumulation_steps": 2}, "hyperparameters.gradient_accumulation_steps"),
        ("causal-lm", {"gradient_accumulation_steps": 2}, None),
        ("causal-lm", {"early_stopping_patience": 2}, "hyperparameters.early_stopping_patience"),
        ("causal-lm", {"early_stopping_patience": 2, "validation_fraction": 0.1}, None),
        ("causal-lm", {"prefix_cache": True, "frozen_dropout": True}, "hyperparameters.frozen_dropout"),
        ("causal-lm", {"prefix_cache": True, "frozen_dropout": False}, None),
        ("causal-lm", {"prefix_cache": True}, None),
        ("causal-lm", {"prefix_cache": "auto", "frozen_dropout": True}, None),
    ],
)
def test_options_of_a_task(task: str, options: dict[str, Any], param: str | None) -> None:
    """An option is refused where it would be ignored or cannot work, and only there."""
    assert refusal(task, **options) == param


def test_a_validation_file_is_enough_for_early_stopping() -> None:
    """There is something to compare."""
    assert refusal("causal-lm", validated=True, early_stopping_patience=2) is None


def test_prompt_tuning_is_for_causal_lm_without_packing() -> None:
    """Its tokens are before a row."""
    assert refusal("causal-lm", adapter=PromptTuningSpec()) is None
    assert refusal("causal-lm", adapter=PromptTuningSpec(), packing=True) == "hyperparameters.packing"
    assert refusal("pairs", adapter=PromptTuningSpec()) == "model.adapter.type"
    assert refusal("pairs", adapter=Ia3Spec()) is None


@pytest.mark.parametrize(
    ("field", "value"), [("init_lora_weights", "pissa"), ("init_lora_weights", False), ("bias", "all")]
)
def test_an_adapter_that_changes_its_base_is_refused(field: str, value: Any) -> None:
    """As a policy error, since the base is frozen."""
    with pytest.raises(PolicyError) as refused:
        refuse_adapter(LoraSpec(**{field: value}), "causal-lm")
    assert refused.value.param == f"model.adapter.{field}"
    refuse_adapter(LoraSpec(init_lora_weights="gaussian", bias="none"), "causal-lm")


def test_pairs_need_their_whole_batch() -> None:
    """Once "auto" is resolved, sizes are compared."""
    refuse_small_micro_batch("causal-lm", micro_batch_size=1, batch_size=2)
    refuse_small_micro_batch("pairs", micro_batch_size=2, batch_size=2)
    with pytest.raises(InvalidRequest, match="lower batch_size"):
        refuse_small_micro_batch("pairs", micro_batch_size=1, batch_size=2)
