"""One job on two processes: the same examples meet in a step, so it ends as on one, within what addition's order does.

Frozen tensors to the bit; trained ones within `TOLERANCE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from worker.protocol import WorkOrder, Workspace

#: Relative to the largest element of a tensor, in float32.
TOLERANCE = 2e-5

ROWS = {"name": "bert.embeddings.word_embeddings.weight", "rows": [[5, 20]]}
LAYER = {"name": "bert.encoder.layer.0.**"}
POLICIES: dict[str, dict[str, Any]] = {
    "requires_grad": {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**"]},
    "detach": {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**"], "mechanism": "detach"},
    "param_group": {"freeze": ["bert.embeddings.**", "bert.encoder.layer.0.**"], "mechanism": "param_group"},
    "rows": {
        "rules": [
            {"id": "rows", "action": "train", "select": ROWS},
            {"id": "rest", "action": "freeze", "select": {"name": "bert.embeddings.**"}},
        ]
    },
    "schedule": {
        "rules": [
            {
                "action": "freeze",
                "select": LAYER,
                "when": [{"from_step": 0, "to_step": 3}, {"from_step": 5, "to_step": None}],
            }
        ]
    },
}


def bert(root: Path, policy: dict[str, Any], **changes: Any) -> WorkOrder:
    """No dropout, which each rank draws for itself; 27 examples, so that the last step of an epoch is uneven."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.bert(place.base, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    words = tiny.WORDS
    rows = [{"text": " ".join(words[at % 20 : at % 20 + 1 + at % 5]), "label": f"l{at % 3}"} for at in range(30)]
    hyperparameters = {
        "n_epochs": 2,
        "batch_size": 8,
        "micro_batch_size": 3,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        "validation_fraction": 0.1,
        "optimizer": "sgd",
    }
    order = work_order(
        job_id="ftjob-ranks",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="text-classification",
        data=data(place, rows),
        hyperparameters=hyperparameters | changes.pop("hyperparameters", {}),
        policy=policy,
        seed=11,
        device="cpu",
    )
    return WorkOrder.from_json(order.to_json() | changes)


def on(devices: int, root: Path, policy: dict[str, Any], **changes: Any) -> Attempt:
    done = attempt(bert(root, policy, devices=devices, **changes), root)
    assert done.code == 0, done.of("failed") or done.place.log
    return done


def assert_equal_results(one: Attempt, two: Attempt) -> None:
    """What was frozen is the base's in both, what trained is close; evidence has the same rows and verdict."""
    assert {name: each["from"] for name, each in one.result.items()} == {
        name: each["from"] for name, each in two.result.items()
    }
    for name, tensor in one.composed().items():
        other = two.composed()[name]
        if one.result[name]["from"] == "base":
            assert torch.equal(tensor, other), name
        else:
            scale = max(1e-3, tensor.abs().max().item())
            assert (tensor - other).abs().max().item() <= TOLERANCE * scale, name
    for name, row in one.observed.items():
        other_row = two.observed[name]
        assert row["loaded"] == other_row["loaded"]
        assert [(each["rows"], each["action"]) for each in row["slices"]] == [
            (each["rows"], each["action"]) for each in other_row["slices"]
        ]
        for mine, others in zip(row["slices"], other_row["slices"], strict=True):
            if mine["action"] == "freeze":
                assert mine == others
        assert [(each["from_step"], each["to_step"]) for each in row["intervals"]] == [
            (each["from_step"], each["to_step"]) for each in other_row["intervals"]
        ]
    assert one.observations["verdict"] == two.observations["verdict"] == "verified"


@pytest.mark.parametrize("policy", ["requires_grad", "detach", "param_group", "schedule"])
def test_shards_end_as_one_process_does(tmp_path: Path, policy: str) -> None:
    """The same with a part of each tensor on each rank: what is exported is whole, and read as it is for one."""
    one = on(1, tmp_path / "one", POLICIES[policy])
    two = on(2, tmp_path / "two", POLICIES[policy], strategy="fsdp")
    assert_equal_results(one, two)
    for mine, others in zip(curve(one), curve(two), strict=True):
        assert mine == pytest.approx(others, rel=1e-4)


def test_rows_of_shards_are_refused(tmp_path: Path) -> None:
    """Before training, with what would work."""
    done = attempt(bert(tmp_path, POLICIES["rows"], devices=2, strategy="fsdp"), tmp_path)
    assert done.failure["param"] == "resources.strategy"
    assert "use the strategy ddp" in done.failure["message"]


def test_whole_tensor_optimizers_are_refused_with_shards(tmp_path: Path) -> None:
    """Adafactor's statistics of a tensor would be those of a shard."""
    changes = {"hyperparameters": {"optimizer": "adafactor"}}
    done = attempt(bert(tmp_path, POLICIES["detach"], devices=2, strategy="fsdp", **changes), tmp_path)
    assert done.failure["param"] == "hyperparameters.optimizer.name"


def curve(done: Attempt) -> list[dict[str, float]]:
    """Loss, gradient norm and evaluation, step by step."""
    return [json.loads(line) for line in (done.place.files / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_end_as_one_process_does(tmp_path: Path, policy: str) -> None:
    """Every mechanism, trainable rows and a schedule; clipping, accumulation, uneven steps, validation between."""
    one = on(1, tmp_path / "one", POLICIES[policy])
    two = on(2, tmp_path / "two", POLICIES[policy])
    assert_equal_results(one, two)
    for mine, others in zip(curve(one), curve(two), strict=True):
        assert mine == pytest.approx(others, rel=1e-4)
