"""What a trainer says of its run, for the recipe."""

from __future__ import annotations

from pathlib import Path

from app.evidence.format.recipe_reading import reported
from tests.worker.trainer.attempts import affine_order, attempt


def test_a_run_tells_what_it_decided_and_did(tmp_path: Path) -> None:
    """Every "auto" decided, steps, operations by the stated rule, and the environment."""
    hyperparameters = {"n_epochs": 2, "batch_size": "auto", "learning_rate": 0.05}
    done = attempt(affine_order(tmp_path, policy={"freeze": ["weight"]}, hyperparameters=hyperparameters), tmp_path)
    word = reported(done.of("done")[0]["recipe"])
    assert word.hyperparameters["batch_size"] == 16
    assert (word.steps, word.total_steps, word.exact, word.resumed) == (6, 6, True, ())
    assert word.flops == 2 * 40 * (2 * 110 + 4 * 10)  # epochs, examples; all weights, the bias
    assert word.environment["device"] == "cpu"
    assert word.loss is not None
