"""Each task's data path: killed in an epoch's midst and run again, an attempt ends with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from app.specs.models import TorchSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import attempt, data, work_order
from tests.worker.trainer.data.test_images import picture
from tests.worker.trainer.data.test_images import rows as pictures
from tests.worker.trainer.training.test_checkpoints import assert_same, copy_checkpoints
from worker.protocol import WorkOrder, Workspace
from worker.trainer.data import flat
from worker.trainer.models.loading import initialise

WORDS = tiny.WORDS
BERT = {"type": "transformers", "path": "tiny"}
CONVNET = {"type": "torch", "architecture": "convnet", "kwargs": {"num_classes": 2, "widths": [4, 8]}}
MLP = {"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 3, "out_features": 3, "dropout": 0.2}}


def phrase(at: int) -> str:
    return " ".join(WORDS[(at * step) % len(WORDS)] for step in range(1, 2 + at % 4))


def chat(at: int) -> dict[str, Any]:
    turns = [("user", phrase(at)), ("assistant", phrase(at + 1)), ("user", "the"), ("assistant", phrase(at + 2))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


# By the name of the task and what is special: model, rows, further hyperparameters.
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "text-classification of pairs": (
        BERT,
        [{"text": phrase(at), "text_pair": phrase(at + 3), "label": at % 3} for at in range(30)],
        {"length_bucketing": True, "label_smoothing": 0.1},
    ),
    "text-regression": (BERT, [{"text": phrase(at), "label": at / 10} for at in range(30)], {}),
    "text-ranking": (
        BERT,
        [{"query": phrase(at // 3), "document": phrase(at), "score": at % 3 / 2} for at in range(30)],
        {"length_bucketing": True},
    ),
    "token-classification": (
        BERT,
        [{"tokens": phrase(at).split(), "labels": ["AB"[at % 2]] * len(phrase(at).split())} for at in range(30)],
        {"optimizer": {"name": "muon"}},
    ),
    "pairs": (BERT, [{"anchor": phrase(at), "positive": phrase(at + 7)} for at in range(30)], {}),
    "causal-lm chats, packed, by muon": (
        {"type": "transformers", "path": "llama"},
        [chat(at) for at in range(30)],
        {"packing": True, "optimizer": {"name": "muon"}, "gradient_accumulation_steps": 2},
    ),
    "causal-lm texts, adafactor": (
        {"type": "transformers", "path": "llama"},
        [{"text": phrase(at) + " ran"} for at in range(30)],
        {"optimizer": {"name": "adafactor"}, "gradient_checkpointing": True},
    ),
    "preference": (
        {"type": "transformers", "path": "llama"},
        [{"prompt": phrase(at), "chosen": " good", "rejected": " bad"} for at in range(30)],
        {"beta": 0.3},
    ),
    "image-classification with BatchNorm": (CONVNET, pictures(20), {"optimizer": {"name": "adamw"}}),
    "image-classification": ({"type": "transformers", "path": "vit"}, pictures(20), {}),
    "tabular-classification": (
        MLP | {"task": "classification"},
        [{"x": [at % 5, at % 7, 1.0], "y": "abc"[at % 3]} for at in range(40)],
        {"optimizer": {"name": "muon"}},
    ),
    "tabular-regression": (MLP, [{"x": [at % 5, at % 7, 1.0], "y": [at, 1, 0]} for at in range(40)], {}),
}


def order(name: str, root: Path) -> WorkOrder:
    model, rows, more = TASKS[name]
    place = Workspace(root).create()
    _base(model, place)
    hyperparameters = {"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "validation_fraction": 0.2}
    return work_order(
        job_id="ftjob-tasks",
        stage="train",
        model=model,
        task=name.split()[0],
        data=data(place, rows),
        hyperparameters=hyperparameters | {"checkpoint_steps": 1, "keep_checkpoints": 100} | more,
        seed=13,
        device="cpu",
    )


def _base(model: dict[str, Any], place: Workspace) -> None:
    made: dict[str, Callable[[Path], Any]] = {"tiny": tiny.bert, "llama": tiny.llama, "vit": tiny.vit}
    if model["type"] == "torch":
        save_file(initialise(TorchSpec.from_json(model), seed=1), place.base / "model.safetensors")
    else:
        made[model["path"]](place.base)


@pytest.mark.parametrize("name", TASKS)
def test_killed_in_an_epoch_the_bits_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What a kill leaves is a checkpoint from the midst of an epoch; the next attempt reads the rest by arithmetic.

    The first attempt has its data in memory, the next one in files.
    """
    whole = attempt(order(name, tmp_path / "whole"), tmp_path / "whole")
    assert whole.code == 0, whole.failure
    folder = tmp_path / "resumed"
    resumed = order(name, folder)
    steps = len(list(whole.place.checkpoints.iterdir()))
    copy_checkpoints(whole, folder, drop=steps - 2)
    monkeypatch.setattr(flat, "HELD_BYTES", 0)
    done = attempt(resumed, folder)
    assert any(each["message"].startswith("goes on after step 2") for each in done.of("event"))
    assert_same(whole, done)
    (ended,), (again,) = whole.of("done"), done.of("done")
    assert again["recipe"].pop("resumed") == [2] and ended["recipe"].pop("resumed") == []
    assert again == ended
    assert all(tensor.isfinite().all() for tensor in done.changed.values() if tensor.is_floating_point())
    assert any(tensor.is_floating_point() for tensor in done.changed.values())


def test_pictures_of_this_file_differ() -> None:
    """Else no order of theirs could matter."""
    assert len({picture(at) for at in range(20)}) == 20
