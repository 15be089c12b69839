"""`compile: true` on a transformers model: a schedule, and a kill with dropout and checkpointed activations."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.patience import PATIENCE
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.training.test_checkpoints import assert_same, start, wait_for_step
from worker.protocol import WorkOrder, Workspace
from worker.trainer import checkpoint

pytestmark = [
    pytest.mark.usefixtures("own_folders"),
    #: torch's own: the import of its scripted modules, and its look at activations that are computed again.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

LAYER = "bert.encoder.layer.0."
#: Frozen by detach for the first steps, then thawed: another graph.
RULES: list[dict[str, Any]] = [
    {"action": "freeze", "select": {"name": "bert.embeddings.**"}},
    {
        "action": "freeze",
        "mechanism": "detach",
        "select": {"name": f"{LAYER}**"},
        "when": [{"from_step": 0, "to_step": 3}],
    },
]


def bert(root: Path, *, rules: list[dict[str, Any]], dropout: float, **wanted: object) -> WorkOrder:
    """Texts of several lengths; six steps."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        still = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        tiny.bert(place.base, **still)  # type: ignore[arg-type]
        config = BertConfig.from_pretrained(place.base, num_hidden_layers=1)  # g++ takes its time for each
        torch.manual_seed(0)
        BertModel(config).save_pretrained(place.base)
    rows = [{"text": " ".join(tiny.WORDS[at % 7 : at % 7 + 1 + at % 5]), "label": f"l{at % 2}"} for at in range(24)]
    hyperparameters = {
        "n_epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "optimizer": {"name": "sgd", "momentum": 0.9},  # AdamW makes whole steps of what is only rounding
        "checkpoint_steps": 1,
        "keep_checkpoints": 100,
        "compile": True,
    }
    return work_order(
        job_id="ftjob-compiled",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="text-classification",
        data=data(place, rows),
        hyperparameters=hyperparameters | wanted,
        policy={"rules": rules},
        seed=5,
        device="cpu",
    )


def states(done: Attempt) -> dict[int, torch.Tensor]:
    """The scheduled layer's first weight after each step."""
    name = f"{LAYER}attention.self.query.weight"
    folder = done.place.checkpoints
    steps = checkpoint.steps_in(folder)
    return {step: checkpoint.load_file(checkpoint.path_of(folder, step) / checkpoint.WEIGHTS)[name] for step in steps}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schedule_is_true_in_graphs(tmp_path: Path) -> None:
    """A tensor that thaws trains from that step on and not before; all ends as in eager mode, within rounding."""
    torch._dynamo.reset()
    done = attempt(bert(tmp_path / "compiled", rules=RULES, dropout=0.0), tmp_path / "compiled")
    assert done.code == 0, done.reports
    assert done.observations["verdict"] == "verified"
    found = states(done)
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[3], found[4])
    eager = attempt(bert(tmp_path / "eager", rules=RULES, dropout=0.0, compile=False), tmp_path / "eager")
    for name, tensor in eager.changed.items():
        assert torch.allclose(tensor, done.changed[name], atol=1e-4), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL between two steps, with activations computed again: the next process draws the dropout that was due."""
    torch._dynamo.reset()
    wanted: dict[str, Any] = {"rules": RULES[:1], "dropout": 0.1, "gradient_checkpointing": True}
    whole = attempt(bert(tmp_path / "whole", **wanted), tmp_path / "whole")
    assert whole.code == 0, whole.reports
    folder = tmp_path / "killed"
    order = bert(folder, **wanted)
    monkeypatch.setenv("TMPDIR", "/tmp")  # a forkserver has its socket there, whose path may not be long
    tempfile.tempdir = None
    child = start(order, folder, slow=True)
    wait_for_step(folder, 3)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(PATIENCE)
    assert not Workspace(folder).result.exists()
    torch._dynamo.reset()
    resumed = attempt(order, folder)
    assert any(each["message"].endswith("exactly as if it had not stopped") for each in resumed.of("event"))
    assert_same(whole, resumed)
