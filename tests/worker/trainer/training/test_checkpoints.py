"""Killed or stopped anywhere and run again: the same bits as a run that was left alone."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.patience import PATIENCE
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, affine_order, attempt, data, work_order
from tests.worker.trainer.conftest import Uninterrupted
from worker.protocol import EXIT_NO_ROOM, WorkOrder, Workspace, read_reports
from worker.trainer import checkpoint

Build = Callable[[Path], WorkOrder]

SGD = {"name": "sgd", "momentum": 0.9}
SLOW = {"n_epochs": 3, "batch_size": 8, "checkpoint_steps": 2, "keep_checkpoints": 100}


def affine(root: Path) -> WorkOrder:
    """41 examples: the last step of an epoch is smaller, and one checkpoint falls into the middle of an epoch."""
    hyperparameters = SLOW | {"learning_rate": 0.05, "optimizer": SGD}
    rows = [{"x": [float((at * k) % 7) / 7 for k in range(10)], "y": [float(at % 5)] * 10} for at in range(41)]
    return affine_order(root, rows=rows, policy={"freeze": ["weight"]}, hyperparameters=hyperparameters)


def bert(root: Path) -> WorkOrder:
    """A BERT with dropout on, AdamW, warm-up, accumulation, clipping, and validation between."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.bert(place.base)
    words = tiny.WORDS
    rows = [{"text": f"{words[at % 20]} {words[at % 7]} {words[at % 3]}", "label": f"l{at % 3}"} for at in range(40)]
    hyperparameters = SLOW | {
        "learning_rate": 1e-3,
        "gradient_accumulation_steps": 2,
        "lr_schedule": "cosine",
        "warmup_steps": 3,
        "max_grad_norm": 0.5,
        "validation_fraction": 0.1,
        "length_bucketing": True,
    }
    return work_order(
        job_id="ftjob-resume",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="text-classification",
        data=data(place, rows),
        hyperparameters=hyperparameters,
        policy={"freeze": ["bert.embeddings.**"], "mechanism": "detach"},
        seed=11,
        device="cpu",
    )


def scheduled(root: Path) -> WorkOrder:
    """Rows that train, a tensor frozen for a while."""
    order = bert(root)
    rules = [
        {
            "id": "rows",
            "action": "train",
            "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[5, 20]]},
        },
        {"id": "embeddings", "action": "freeze", "select": {"name": "bert.embeddings.**"}},
        {
            "id": "later",
            "action": "freeze",
            "select": {"name": "bert.encoder.layer.0.**"},
            "when": [{"from_step": 0, "to_step": 5}, {"from_step": 8, "to_step": 11}],
        },
    ]
    return WorkOrder.from_json(order.to_json() | {"policy": {"default": "train", "rules": rules}})


def preference(root: Path) -> WorkOrder:
    """DPO, whose reference must be the base's and not the checkpoint's."""
    place = Workspace(root).create()
    if not (place.base / "config.json").exists():
        tiny.llama(place.base, attention_dropout=0.1)
    words = tiny.WORDS
    rows = [{"prompt": f"{words[at]} {words[-at]}", "chosen": " good", "rejected": " bad"} for at in range(1, 21)] * 2
    hyperparameters = SLOW | {"learning_rate": 1e-3}
    fields = bert(root / "other").to_json() | {
        "data": data(place, rows),
        "task": "preference",
        "policy": {"train": ["model.layers.1.**"]},
    }
    return WorkOrder.from_json(fields | {"hyperparameters": hyperparameters})


ORDERS = [affine, bert, scheduled, preference]


@pytest.mark.parametrize("build", ORDERS)
@pytest.mark.parametrize("back", [1, 2, 4])
def test_resumed_run_has_the_same_bits(tmp_path: Path, uninterrupted: Uninterrupted, build: Build, back: int) -> None:
    """From any checkpoint, in whichever epoch: every changed tensor is bit-equal, and so are the readings."""
    whole = uninterrupted(build)
    folder = tmp_path / "resumed"
    order = build(folder)
    copy_checkpoints(whole, folder, drop=back)
    resumed = attempt(order, folder)
    assert any(each["message"].startswith("goes on after step") for each in resumed.of("event"))
    assert_same(whole, resumed)


@pytest.mark.parametrize("build", ORDERS)
def test_sigterm_saves_and_the_next_attempt_goes_on(tmp_path: Path, uninterrupted: Uninterrupted, build: Build) -> None:
    """SIGTERM during training: exit 75 with a checkpoint, and the run that goes on ends with the same bits."""
    whole = uninterrupted(build)
    folder = tmp_path / "stopped"
    order = build(folder)
    order = WorkOrder.from_json(
        order.to_json()
        | {"hyperparameters": order.hyperparameters.to_json() | {"checkpoint_steps": None, "n_epochs": 3}}
    )
    child = start(order, folder, slow=True)
    wait_for_step(folder, 2)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(PATIENCE)
    assert child.exitcode == 75
    saved = read_reports(Workspace(folder).reports)[0]
    assert [each for each in saved if each["type"] == "checkpoint"]
    assert not Workspace(folder).result.exists()
    assert_same(whole, attempt(order, folder))


def test_kill_loses_nothing_but_time(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """kill -9 in the middle: the next attempt goes on from the newest checkpoint, with the same end."""
    whole = uninterrupted(bert)
    folder = tmp_path / "killed"
    order = bert(folder)
    child = start(order, folder, slow=True)
    wait_for_step(folder, 5)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(PATIENCE)
    resumed = attempt(order, folder)
    assert any(each["message"].startswith("goes on after step") for each in resumed.of("event"))
    assert_same(whole, resumed)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no manifest", "half written", "other run"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: Uninterrupted, damage: str) -> None:
    """A torn, bit-flipped, manifest-less or foreign checkpoint is named and skipped; the one before it serves."""
    whole = uninterrupted(bert)
    folder = tmp_path / "resumed"
    order = bert(folder)
    copy_checkpoints(whole, folder, drop=1)
    spoil(newest(folder), damage)
    resumed = attempt(order, folder)
    warnings = [each["message"] for each in resumed.of("event") if each["level"] == "warn"]
    assert (damage == "half written") == (not warnings)
    assert_same(whole, resumed)


@pytest.mark.parametrize(("change", "says"), [("missing", "lacks"), ("extra", "does not have"), ("shape", "shape")])
def test_checkpoint_of_other_tensors_is_passed_over(
    tmp_path: Path, uninterrupted: Uninterrupted, change: str, says: str
) -> None:
    """Also where its manifest agrees: it is named with the tensor, and the one before it serves."""
    whole = uninterrupted(affine)
    folder = tmp_path / "resumed"
    order = affine(folder)
    copy_checkpoints(whole, folder, drop=1)
    path = newest(folder) / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["bias"]
    else:
        tensors["bias" if change == "shape" else "gamma"] = torch.zeros(3)
    save_file(tensors, path)
    rewrite_manifest(newest(folder))
    resumed = attempt(order, folder)
    warnings = [each["message"] for each in resumed.of("event") if each["level"] == "warn"]
    assert any("is not used" in each and says in each for each in warnings), warnings
    assert_same(whole, resumed)


def test_no_intact_checkpoint_means_from_the_start(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """All damaged: training begins at step 1, and ends with the same bits."""
    whole = uninterrupted(affine)
    folder = tmp_path / "resumed"
    order = affine(folder)
    copy_checkpoints(whole, folder, drop=0)
    for path in Workspace(folder).checkpoints.iterdir():
        spoil(path, "truncate")
    (newest(folder) / "manifest.json").write_text("{")
    resumed = attempt(order, folder)
    assert resumed.of("step")[0]["step"] == 1
    warnings = [each["message"] for each in resumed.of("event") if each["level"] == "warn"]
    assert "manifest.json is not JSON" in warnings[0]
    assert warnings[-1] == "no checkpoint can be used: training begins at the first step again"
    assert_same(whole, resumed)


def test_curve_survives_a_resume(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """metrics.jsonl of a resumed run holds the steps before the resume as well; that it was taken up is in a report."""
    whole = uninterrupted(affine)
    folder = tmp_path / "resumed"
    order = affine(folder)
    copy_checkpoints(whole, folder, drop=2)
    resumed = attempt(order, folder)
    reports = [json.loads((done.place.files / "determinism.json").read_text()) for done in (whole, resumed)]
    assert [each["exact"] for each in reports] == [True, True]
    assert (reports[0]["resumed"], reports[0]["seed"]) == ([], order.seed)
    assert [each["differs"] for each in reports[1]["resumed"]] == [[]]
    assert reports[0]["environment"] == reports[1]["environment"]
    name = "metrics.jsonl"
    assert (resumed.place.files / name).read_text() == (whole.place.files / name).read_text()


@pytest.mark.parametrize(
    "omitted", ["optimizer.safetensors", "random.safetensors", "position"], ids=["optimizer", "random", "position"]
)
def test_each_part_of_a_checkpoint_is_needed(tmp_path: Path, uninterrupted: Uninterrupted, omitted: str) -> None:
    """The negative control: with one part replaced, the bits do differ, so the comparison above can fail."""
    whole = uninterrupted(bert)
    folder = tmp_path / "resumed"
    order = bert(folder)
    copy_checkpoints(whole, folder, drop=2)
    path = newest(folder)
    if omitted == "position":
        rewrite_manifest(path, step=json.loads((path / "manifest.json").read_text())["step"] - 1)
    else:
        tensors = {name: _other(tensor) for name, tensor in load_file(path / omitted).items()}
        save_file(tensors, path / omitted)
        rewrite_manifest(path)
    resumed = attempt(order, folder)
    assert any(not torch.equal(tensor, resumed.changed[name]) for name, tensor in whole.changed.items())


def test_full_disk_costs_the_checkpoint_not_the_run(
    tmp_path: Path, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for two checkpoints: older ones make room, events say so, training goes on to the same result."""
    whole = uninterrupted(affine)
    with disk_that_fills(monkeypatch, misses=3):  # one of them tries again once an older one is gone
        done = attempt(affine(tmp_path / "full"), tmp_path / "full")
    missed = [each["message"].partition(":")[0] for each in done.of("event") if "no checkpoint" in each["message"]]
    assert missed == ["no checkpoint after step 6", "no checkpoint after step 8"]
    assert_same(whole, done)


def test_disk_that_stays_full_ends_the_attempt(
    tmp_path: Path, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three checkpoints in a row without space; from the last good one a later attempt has the same bits."""
    whole = uninterrupted(affine)
    order = affine(tmp_path / "full")
    with disk_that_fills(monkeypatch, misses=1_000_000):
        full = attempt(order, tmp_path / "full")
    assert full.code == EXIT_NO_ROOM
    assert sorted(path.name for path in full.place.checkpoints.iterdir()) == ["step-00000004"]
    assert_same(whole, attempt(order, tmp_path / "full"))


@contextmanager
def disk_that_fills(monkeypatch: pytest.MonkeyPatch, *, misses: int) -> Iterator[None]:
    """After twelve files there is no space for so many more."""
    real = checkpoint._write
    calls = {"left": 12}

    def full(path: Path, content: Any, **options: Any) -> None:
        calls["left"] -= 1
        if -misses <= calls["left"] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", full)
        yield


def test_error_of_safetensors_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """Writing where nothing can be written: its own exception arrives as OSError with the system's number."""
    with pytest.raises(OSError) as refused:
        checkpoint._write(tmp_path / "missing" / "x.safetensors", {"a": torch.ones(2)}, metadata={})
    assert refused.value.errno == errno.ENOENT


def assert_same(one: Attempt, other: Attempt) -> None:
    assert (one.code, other.code) == (0, 0)
    left, right = one.changed, other.changed
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert tensor.shape == right[name].shape, name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), right[name].reshape(-1).view(torch.uint8)), name
    readings = ("name", "loaded", "trained", "base", "result", "slices", "intervals")
    pick = [[{key: each[key] for key in readings} for each in done.observations["tensors"]] for done in (one, other)]
    assert pick[0] == pick[1]
    assert one.observations["violations"] == other.observations["violations"] == []


def copy_checkpoints(done: Attempt, folder: Path, *, drop: int) -> None:
    """Give another workspace all but the newest `drop` checkpoints."""
    paths = sorted(done.place.checkpoints.iterdir())
    assert len(paths) > drop
    for path in paths[: len(paths) - drop]:
        shutil.copytree(path, Workspace(folder).checkpoints / path.name)


def newest(folder: Path) -> Path:
    return max(Workspace(folder).checkpoints.iterdir())


def spoil(path: Path, damage: str) -> None:
    weights = path / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    elif damage == "half written":
        path.rename(path.with_name(f".{path.name}.1.tmp"))
    else:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | {"run": "another"}))


def rewrite_manifest(path: Path, **changes: Any) -> None:
    """Make a changed checkpoint look intact."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    for name in manifest["files"]:
        content = (path / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def start(order: WorkOrder, folder: Path, *, slow: bool) -> Any:
    """The attempt in a process of its own, with time between steps to be hit in."""
    order.save(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.trainer.main"])
    child = context.Process(target=_run, args=(folder, 0.05 if slow else 0.0, torch.get_num_threads()))
    child.start()
    return child


def _run(folder: Path, pause: float, threads: int) -> None:
    from worker.trainer import main
    from worker.trainer.training import loop

    os.environ["OMP_NUM_THREADS"] = str(threads)
    clip = loop.clip

    def slow_clip(*arguments: Any) -> float | None:
        time.sleep(pause)
        return clip(*arguments)

    loop.clip = slow_clip  # type: ignore[assignment]
    main.run(folder)


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        reports, _ = read_reports(Workspace(folder).reports)
        if any(each["type"] == "step" and each["step"] >= step for each in reports):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} came: {reports}")


def _other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.Generator().manual_seed(99).get_state() if tensor.dtype == torch.uint8 else torch.zeros_like(tensor)
