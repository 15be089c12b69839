"""Models made of checkpoints: the bytes that the run had after that step, in the form that loaders expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from app.jobs.queue.tables import Job
from app.models.catalog import layout
from app.models.tables import Model
from app.storage.blobs import Storage

torch = pytest.importorskip("torch", reason="the worker's dependencies are not installed")

from tests.worker.trainer import tiny  # noqa: E402 - needs torch
from tests.worker.trainer.attempts import Attempt, attempt, data  # noqa: E402
from worker.protocol import WorkOrder, Workspace  # noqa: E402
from worker.supervisor import bases  # noqa: E402
from worker.supervisor.checkpoints import CheckpointForm  # noqa: E402

# With a constant rate, a run of two steps ends where a run of three steps is after two.
HYPERPARAMETERS = {
    "max_steps": 3,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "checkpoint_steps": 1,
    "keep_checkpoints": 5,
}
SHORTER = HYPERPARAMETERS | {"max_steps": 2}


def run(root: Path, **changes: Any) -> Attempt:
    place = Workspace(root).create()
    rows = [{"text": f"the {word}", "label": "ab"[at % 2]} for at, word in enumerate(tiny.WORDS * 2)]
    fields: dict[str, Any] = {
        "job_id": "ftjob-one",
        "stage": "train",
        "model": {"type": "transformers", "path": "tiny"},
        "task": "text-classification",
        "data": data(place, rows),
        "hyperparameters": HYPERPARAMETERS,
        "seed": 4,
        "device": "cpu",
    }
    return attempt(WorkOrder.from_json(fields | changes), root)


def published(done: Attempt, folder: Path, *, step: int) -> tuple[Model, dict[str, torch.Tensor]]:  # type: ignore[name-defined]
    """The model of a checkpoint, and what a download of it holds."""
    assert done.code == 0, done.reports[-1]
    storage = Storage(f"file://{folder}")
    stored = bases.ingest(done.place.base, storage)
    base = Model(id="tiny", kind="base", files=stored.files, tensors=stored.tensors)
    job = Job(id="ftjob-one", project="p", model="tiny", model_spec={"type": "transformers", "path": "tiny"})
    model = CheckpointForm.read(done.place, storage).model(
        job, base, done.place.checkpoints / f"step-{step:08d}", step, set()
    )
    return model, load(b"".join(layout(model, model.files[0]["name"]).stream(storage.open)))


def equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:  # type: ignore[name-defined]
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "policy",
    [{"freeze": ["bert.**"]}, {"train": ["bert.pooler.**"]}, {"freeze": ["bert.encoder.**"]}],
    ids=["head alone", "a new head that is frozen", "all but the encoder"],
)
def test_checkpoint_holds_what_the_run_had(tmp_path: Path, policy: dict[str, Any]) -> None:
    """Frozen tensors come from the base, a new head that is frozen from its first bytes, the others from the run."""
    for name in ("long", "short"):
        tiny.bert(Workspace(tmp_path / name).create().base)
    model, held = published(run(tmp_path / "long", policy=policy), tmp_path / "blobs", step=2)
    assert (model.id, model.kind) == ("ft:tiny:p::one:ckpt-step-2", "checkpoint")
    assert {"config.json", "tokenizer.json"} <= {each["name"] for each in model.files}
    assert equal(held, run(tmp_path / "short", policy=policy, hyperparameters=SHORTER).composed())


def test_tensors_that_loading_fuses_are_stored_in_pieces(tmp_path: Path) -> None:
    """transformers joins a mixture's experts into one tensor; a checkpoint's model has them as the base file does."""
    changes: dict[str, Any] = {"task": "causal-lm", "policy": {"freeze": ["model.embed_tokens.**"]}}
    for name in ("long", "short"):
        place = Workspace(tmp_path / name).create()
        tiny.mixtral(place.base)
        changes["data"] = data(place, [{"text": "the cat sat on the mat"}] * 24, "causal.jsonl")
    model, held = published(run(tmp_path / "long", **changes), tmp_path / "blobs", step=2)
    assert "model.layers.0.block_sparse_moe.experts.1.w2.weight" in held
    assert equal(held, run(tmp_path / "short", **changes, hyperparameters=SHORTER).composed())
    assert {each["name"] for each in model.tensors if each.get("own")} == held.keys() - {"model.embed_tokens.weight"}


def test_adapter_checkpoint_is_an_adapter(tmp_path: Path) -> None:
    """In peft's format: its matrices and the new head, the configuration beside them."""
    spec = {"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "r": 2}}
    for name in ("long", "short"):
        tiny.bert(Workspace(tmp_path / name).create().base)
    model, held = published(run(tmp_path / "long", model=spec), tmp_path / "blobs", step=2)
    assert model.files[0]["name"] == "adapter_model.safetensors"
    assert "adapter_config.json" in {each["name"] for each in model.files}
    assert equal(held, run(tmp_path / "short", model=spec, hyperparameters=SHORTER).changed)
