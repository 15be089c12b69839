"""Work orders on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import InvalidRequest
from app.specs.models import TorchSpec
from worker.protocol.order import ProtocolError, WorkOrder

ORDER = WorkOrder(job_id="ftjob-1", stage="train", model=TorchSpec(architecture="affine"), seed=7)


def test_order_survives_the_disk(tmp_path: Path) -> None:
    """What is loaded equals what was saved."""
    ORDER.save(tmp_path)
    assert WorkOrder.load(tmp_path) == ORDER


@pytest.mark.parametrize(
    ("change", "says"),
    [({"colour": 1}, "colour"), ({"stage": "dance"}, "dance"), ({"model": ...}, "model")],
)
def test_order_refuses_what_it_does_not_know(change: dict[str, object], says: str) -> None:
    """Unknown fields, unknown stages and missing fields are named."""
    obj = {**ORDER.to_json(), **change}
    with pytest.raises(ProtocolError, match=says):
        WorkOrder.from_json({key: value for key, value in obj.items() if value is not ...})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": {"type": "torch"}}, "model.architecture"),
        ({"hyperparameters": {"n_epoch": 1}}, "hyperparameters.n_epoch"),
        ({"policy": {"default": "thaw"}}, "freeze_policy.default"),
        ({"data": {"target": 3}}, "data.target"),
        ({"evidence": {"overhead_budget": 2}}, "evidence.overhead_budget"),
    ],
)
def test_a_spec_that_cannot_be_read_is_named(change: dict[str, object], param: str) -> None:
    """By its path in a request, so that a failed job's error can name it."""
    with pytest.raises(InvalidRequest) as refused:
        WorkOrder.from_json(ORDER.to_json() | change)
    assert refused.value.param == param


def test_an_order_of_a_version_with_plain_dictionaries_is_read() -> None:
    """A null validation file, an absent policy: as an attempt that this version goes on with left it."""
    order = WorkOrder.from_json(
        {"job_id": "j", "stage": "train", "model": {"type": "torch", "architecture": "affine"}, "task": None}
        | {"data": {"format": "jsonl", "training": "data/train.jsonl", "validation": None}}
    )
    assert (order.data.training, order.data.validation, order.policy.default) == ("data/train.jsonl", None, "train")


def test_protocol_needs_no_torch() -> None:
    """The supervisor imports the protocol, so importing it brings in the standard library and pure contracts alone."""
    code = "import sys, worker.protocol; print({'torch', 'numpy', 'pydantic'} & set(sys.modules) or 'none')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "none"
    )
