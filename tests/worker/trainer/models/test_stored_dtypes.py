"""Bases that store several dtypes: each tensor is loaded, frozen, trained and saved in its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.freeze.plan import TensorInfo
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to
from worker.protocol import Workspace
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, manifest
from worker.trainer.witness.observe import digest

HALF, FULL = torch.bfloat16, torch.float32
TEXTS = [{"text": "the cat sat on the mat"}, {"text": "a dog ran"}] * 4
LAYERS = {"freeze": ["model.layers.**"]}


def mixed(save: Callable[[Path], Path], folder: Path, part: str, *, dtype: torch.dtype, main: torch.dtype) -> Path:
    """A base whose tensors with `part` in their name have one dtype, and the others another."""
    path = save(folder) / "model.safetensors"
    weights = {name: each.to(dtype if part in name else main) for name, each in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def trained(root: Path, save: Callable[[Path], Path], part: str, main: torch.dtype = HALF, **fields: Any) -> Attempt:
    place = Workspace(root).create()
    mixed(save, place.base, part, dtype=FULL if main is HALF else HALF, main=main)
    model = {"type": "transformers", "path": "tiny"} | fields.pop("model", {})
    order = work_order(
        job_id="ftjob-mixed",
        stage="train",
        model=model,
        task="causal-lm",
        data=data(place, TEXTS),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
        device="cpu",
        **fields,
    )
    return attempt(order, root)


@pytest.mark.parametrize(
    ("save", "part", "main"),
    [
        (tiny.llama, "norm", HALF),
        (tiny.llama, "norm", FULL),
        (tiny.llama, "down_proj", HALF),
        (tiny.mixtral, "gate.", HALF),
        (tiny.mixtral, "experts.", HALF),
    ],
    ids=["norms in full", "norms in half", "matrices in full", "routers in full", "fused experts in full"],
)
def test_every_tensor_keeps_its_dtype(
    tmp_path: Path, save: Callable[[Path], Path], part: str, main: torch.dtype
) -> None:
    """Frozen ones are proved, trained ones are saved as they were stored, and the events say so."""
    done = trained(tmp_path, save, part, main, policy=LAYERS)
    judged = judge(done)
    assert (judged.verdict, objections_to(done, judged)) == ("verified", [])
    result = done.composed()
    assert {name: each.dtype for name, each in result.items()} == {name: each.dtype for name, each in done.base.items()}
    assert done.changed
    assert any("each tensor keeps its own dtype" in each["message"] for each in done.of("event"))


def test_all_of_a_mixed_model_trains(tmp_path: Path) -> None:
    """In bfloat16 products, without which its layers could not be multiplied with each other."""
    done = trained(tmp_path, tiny.llama, "norm")
    assert done.code == 0
    assert done.of("plan")[0]["hyperparameters"]["precision"] == "bf16"
    assert {name for name in done.changed if "norm" in name}
    assert {each.dtype for name, each in done.changed.items() if "norm" in name} == {FULL}


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_over_a_mixed_base(tmp_path: Path, merge: bool) -> None:
    """The base is proved in all its dtypes."""
    adapter = {"adapter": {"type": "lora", "r": 2, "merge": merge}}
    judged = judge(trained(tmp_path, tiny.llama, "norm", model=adapter))
    assert judged.verdict == "verified"


def test_a_requested_dtype_casts(tmp_path: Path) -> None:
    """And what is cast cannot be frozen, as before."""
    done = trained(tmp_path, tiny.llama, "norm", model={"dtype": "float32"}, policy={"freeze": ["model.layers.0.**"]})
    assert (done.code, done.failure["param"]) == (1, "model.dtype")


@pytest.mark.parametrize("save", [tiny.llama, tiny.mixtral])
def test_manifest_has_the_stored_dtypes(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    """Preview and trainer see the same tensors; loaded bytes are the stored ones, the odd NaN included."""
    path = mixed(save, tmp_path, "norm", dtype=FULL, main=HALF) / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"].view(torch.int32)[0] = 0x7FC12345  # a NaN with a payload
    save_file(weights, path, metadata={"format": "pt"})
    rows = manifest.describe(TransformersSpec(path="tiny"), tmp_path, task="causal-lm")
    assert isinstance(rows, dict)
    described = rows["causal-lm"]
    loaded = loading.load(TransformersSpec(path="tiny"), tmp_path, task="causal-lm", labels=None, seed=0)
    assert [TensorInfo.from_json(row) for row in described if isinstance(row, dict)] == tensors(loaded.model)
    live = loaded.model.state_dict()["model.norm.weight"]
    assert digest(live) == digest(weights["model.norm.weight"])


def test_doubles_are_no_quantised_form(tmp_path: Path) -> None:
    """Their code, F64, begins like those of floats of six bits."""
    mixed(tiny.llama, tmp_path, "", dtype=torch.float64, main=torch.float64)
    loaded = loading.load(TransformersSpec(path="tiny"), tmp_path, task="causal-lm", labels=None, seed=0)
    assert {each.dtype for each in loaded.model.parameters()} == {torch.float64}
