"""What several ranks cannot do like one is refused by name."""

import pytest

from app.errors import InvalidRequest
from worker.trainer.ranks.group import ALONE, Group
from worker.trainer.ranks.refusals import refuse_request

REQUEST = {"task": "causal-lm", "optimizer": "adamw", "precision": "fp32", "cached": False, "compiled": False}


@pytest.mark.parametrize(
    ("strategy", "change", "param"),
    [
        ("ddp", {"task": "pairs"}, "resources.devices"),
        ("ddp", {"cached": True}, "hyperparameters.prefix_cache"),
        ("ddp", {"compiled": True}, "hyperparameters.compile"),
        ("fsdp", {"optimizer": "muon"}, "hyperparameters.optimizer.name"),
        ("fsdp", {"precision": "fp16"}, "hyperparameters.precision"),
    ],
)
def test_refused_on_several_devices_only(strategy: str, change: dict[str, object], param: str) -> None:
    request = REQUEST | change
    with pytest.raises(InvalidRequest) as refused:
        refuse_request(Group(0, 2, strategy), **request)  # type: ignore[arg-type]
    assert refused.value.param == param
    refuse_request(ALONE, **request)  # type: ignore[arg-type]


def test_muon_is_for_replicas() -> None:
    refuse_request(Group(0, 2, "ddp"), **(REQUEST | {"optimizer": "muon"}))  # type: ignore[arg-type]
