"""Work orders on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.protocol.order import ProtocolError, WorkOrder

ORDER = WorkOrder(job_id="ftjob-1", stage="train", model={"type": "torch", "architecture": "affine"}, seed=7)


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


def test_protocol_needs_no_torch() -> None:
    """The supervisor imports the protocol, so importing it brings in the standard library alone."""
    code = "import sys, worker.protocol; print({'torch', 'numpy', 'pydantic'} & set(sys.modules) or 'none')"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "none"
    )
