"""The job's log says what memory was for: codes and scales apart, and nothing of the frozen half but its bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.trainer.models.test_quantised import causal


def test_parts_of_a_job_over_a_quantised_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gradients and optimizer state are the adapter's alone; the peak is more than all of them."""
    done = causal(tmp_path, "nf4")
    (parts,) = done.of("memory")
    base = {name: tensor.nbytes for name, tensor in done.base.items()}
    linear = sum(size for name, size in base.items() if "_proj" in name)
    assert parts["quantised_weights"] == linear
    assert parts["frozen_weights"] >= sum(base.values()) > linear
    trained = sum(tensor.nbytes for tensor in done.changed.values())
    assert (parts["trained_weights"], parts["gradients"]) == (trained, trained)
    assert 2 * trained <= parts["optimizer"] <= 2 * trained + 64 * len(done.changed)
    assert parts["peak"] > sum(size for name, size in parts.items() if isinstance(size, int) and name != "peak")
    assert "memory in MB: frozen_weights" in capsys.readouterr().out
