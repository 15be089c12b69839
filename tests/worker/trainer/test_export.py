"""What the trainer writes, judged as the supervisor judges it: files read again, the policy resolved again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, affine_order, attempt, data
from tests.worker.trainer.data import test_images
from tests.worker.trainer.judging import judge
from tests.worker.trainer.models.test_adapters import classifier
from tests.worker.trainer.models.test_names import mixtral
from tests.worker.trainer.training.test_checkpoints import bert, scheduled
from worker.protocol import WorkOrder, Workspace


def affine(mechanism: str) -> Callable[[Path], Attempt]:
    return lambda root: attempt(affine_order(root, policy={"freeze": ["weight"], "mechanism": mechanism}), root)


def convnet(root: Path) -> Attempt:
    place = Workspace(root).create()
    order = test_images.order(place, test_images.CONVNET, test_images.rows(), policy={"freeze": ["features.**"]})
    return attempt(order, root)


def tied(root: Path, *, twice: bool = False) -> Attempt:
    place = Workspace(root).create()
    tiny.llama(place.base)
    if twice:
        path = place.base / "model.safetensors"
        weights = load_file(path)
        save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, path)
    fields = bert(root / "other").to_json() | {
        "task": "causal-lm",
        "data": data(place, [{"text": "the cat sat on the mat"}] * 20),
        "hyperparameters": {"n_epochs": 1, "batch_size": 8},
        "policy": {"freeze": ["model.embed_tokens.weight", "lm_head.weight"]},
    }
    return attempt(WorkOrder.from_json(fields), root)


VERIFIED: dict[str, tuple[Callable[[Path], Attempt], int]] = {
    "affine, requires_grad": (affine("requires_grad"), 1),
    "affine, detach": (affine("detach"), 1),
    "affine, param_group": (affine("param_group"), 1),
    "frozen embeddings": (lambda root: attempt(bert(root), root), 5),
    "rows and a schedule": (lambda root: attempt(scheduled(root), root), 4),
    "convolutions with BatchNorm": (convnet, 12),
    "a tie": (tied, 1),
    "a tie under two names": (lambda root: tied(root, twice=True), 2),
    "an adapter": (classifier, 39),
}


@pytest.mark.parametrize("name", VERIFIED)
def test_kept_promise_is_verified(tmp_path: Path, name: str) -> None:
    """Every way of freezing that held is judged verified, with as many frozen tensors as the policy froze."""
    build, frozen = VERIFIED[name]
    judged = judge(build(tmp_path))
    assert (judged.verdict, judged.reason) == ("verified", None)
    assert sum(row.role == "frozen" for row in judged.rows) == frozen


def test_broken_promise_is_violated(tmp_path: Path) -> None:
    """The control: an audit in which the frozen tensor trained is judged violated, from step 1."""
    policy = {"freeze": ["weight"], "enforce": False}
    judged = judge(attempt(affine_order(tmp_path, policy=policy), tmp_path))
    assert judged.verdict == "violated"
    assert [(each["name"], each["first_bad_step"]) for each in judged.violations] == [("weight", 1)]


def test_fused_experts_are_never_called_violated(tmp_path: Path) -> None:
    """Stored apart, live as one and not by rows: nothing is claimed of them, and nothing false."""
    judged = judge(mixtral(tmp_path))
    assert judged.verdict in ("verified", "incomplete")
    assert judged.violations == ()


def test_result_files_describe_the_model(tmp_path: Path) -> None:
    """config.json, curves as JSONL and CSV, a model card."""
    done = attempt(affine_order(tmp_path), tmp_path)
    assert json.loads((done.place.files / "config.json").read_text())["architecture"] == "affine"
    curve = [json.loads(line) for line in (done.place.files / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == list(range(1, 11))
    assert (done.place.files / "metrics.csv").read_text().splitlines()[0].startswith("step,epoch,loss")
