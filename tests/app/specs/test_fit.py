"""Rules that the API and the trainer share about data, devices and hyperparameters."""

from typing import Any

import pytest

from app.errors import DataError, InvalidRequest
from app.specs import fit


def test_a_head_has_a_class_for_each_label() -> None:
    """More classes than labels are allowed, and a number that is not given is the file's."""
    fit.refuse_more_labels(3, 3)
    fit.refuse_more_labels(3, 5)
    fit.refuse_more_labels(3, None)
    with pytest.raises(InvalidRequest, match=r"the data has 3 labels, and model\.num_labels is 2"):
        fit.refuse_more_labels(3, 2)
    fit.refuse_few_outputs(3, 3)
    with pytest.raises(DataError, match="3 labels, and the model gives 2 outputs"):
        fit.refuse_few_outputs(3, 2)


def test_a_regression_has_one_number() -> None:
    """Other tasks may have as many classes as they like."""
    fit.refuse_regression_labels("text-regression", 1)
    fit.refuse_regression_labels("text-classification", 3)
    fit.refuse_regression_labels("text-ranking", None)
    with pytest.raises(InvalidRequest, match="leave it out"):
        fit.refuse_regression_labels("text-regression", 3)
    with pytest.raises(InvalidRequest, match="text-ranking has one number"):
        fit.refuse_regression_labels("text-ranking", 2)


def test_a_micro_batch_is_a_part_of_its_batch() -> None:
    """All of it, at most."""
    fit.refuse_large_micro_batch(micro_batch_size=4, batch_size=4)
    with pytest.raises(InvalidRequest, match="micro_batch_size 5 is larger than batch_size 4"):
        fit.refuse_large_micro_batch(micro_batch_size=5, batch_size=4)


REQUEST: dict[str, Any] = {
    "task": "causal-lm",
    "optimizer": "adamw",
    "precision": None,
    "cached": False,
    "compiled": False,
}


@pytest.mark.parametrize(
    ("sharded", "change", "param"),
    [
        (False, {"task": "pairs"}, "resources.devices"),
        (False, {"task": "contrastive-image-text"}, "resources.devices"),
        (False, {"cached": True}, "hyperparameters.prefix_cache"),
        (False, {"compiled": True}, "hyperparameters.compile"),
        (True, {"optimizer": "muon"}, "hyperparameters.optimizer.name"),
        (True, {"precision": "fp16"}, "hyperparameters.precision"),
    ],
)
def test_what_several_devices_cannot_do(sharded: bool, change: dict[str, Any], param: str) -> None:
    """On one device all of it is possible."""
    fit.refuse_devices(1, sharded=sharded, **REQUEST | change)
    with pytest.raises(InvalidRequest) as refused:
        fit.refuse_devices(2, sharded=sharded, **REQUEST | change)
    assert refused.value.param == param
