"""Checkpoints beside training: it does not wait, they hold what they were taken of, and errors are not lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.patience import PATIENCE
from tests.worker.trainer.attempts import Attempt, attempt
from tests.worker.trainer.training.test_checkpoints import affine, assert_same, bert
from worker.protocol import EXIT_FAILED, Workspace
from worker.trainer import checkpoint
from worker.trainer.main import run
from worker.trainer.training import loop, memory
from worker.trainer.training.checkpoint_writer import CheckpointWriter


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that ends only after the next updates holds the state of its own step, to the byte."""
    whole = attempt(bert(tmp_path / "whole"), tmp_path / "whole")
    on = threading.Event()
    update, write = loop.update, checkpoint.write

    def updating(run: loop.Run, step: int) -> Any:
        found = update(run, step)
        if step == 4:  # checkpoints are due every second step: the first is being written since step 2
            on.set()
        return found

    def late(*arguments: Any, **options: Any) -> Path:
        assert on.wait(PATIENCE), "training waited for the checkpoint"
        return write(*arguments, **options)

    monkeypatch.setattr(loop, "update", updating)
    monkeypatch.setattr(checkpoint, "write", late)
    done = attempt(bert(tmp_path / "late"), tmp_path / "late")
    assert_same(whole, done)
    assert steps(done) == steps(whole)
    for path in sorted(whole.place.checkpoints.iterdir()):
        for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors"):
            one, other = load_file(path / name), load_file(done.place.checkpoints / path.name / name)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), (path, name)


def test_checkpoint_is_told_when_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report, which becomes a row, comes after the files, and before the run is done."""
    write = checkpoint.write
    place = Workspace(tmp_path)

    def checked(*arguments: Any, **options: Any) -> Path:
        step = options["step"]
        assert f'"step":{step},"path"' not in place.reports.read_text()
        return write(*arguments, **options)

    monkeypatch.setattr(checkpoint, "write", checked)
    done = attempt(affine(tmp_path), tmp_path)
    kinds = [each["type"] for each in done.reports]
    assert kinds.index("done") > max(at for at, kind in enumerate(kinds) if kind == "checkpoint")
    assert [Path(each["path"]).name for each in done.of("checkpoint")] == sorted(
        path.name for path in done.place.checkpoints.iterdir()
    )


def test_memory_too_short_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then training waits, and the state is written from where it lies."""
    whole = attempt(affine(tmp_path / "whole"), tmp_path / "whole")
    update = loop.update
    place = Workspace(tmp_path / "short")

    def updating(run: loop.Run, step: int) -> Any:
        assert step < 3 or checkpoint.path_of(place.checkpoints, (step - 1) // 2 * 2).exists()
        return update(run, step)

    monkeypatch.setattr(loop, "update", updating)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 0)
    assert_same(whole, attempt(affine(place.root), place.root))


def test_fault_of_ours_is_not_lost_in_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no error of the disk ends the attempt, as it would without a thread."""

    def broken(*arguments: Any, **options: Any) -> Path:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "write", broken)
    affine(tmp_path).save(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path)
    assert ended.value.code == EXIT_FAILED and "a bug" in str(ended.value.__cause__)


def test_divergence_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails still finishes what is being written."""
    clip = loop.clip
    calls = {"made": 0}

    def diverging(*arguments: Any) -> float | None:
        calls["made"] += 1
        return float("nan") if calls["made"] == 5 else clip(*arguments)

    monkeypatch.setattr(loop, "clip", diverging)
    done = attempt(affine(tmp_path), tmp_path)
    assert done.failure["code"] == "diverged"
    assert [each["step"] for each in done.of("checkpoint")] == [2, 4]


def test_one_at_a_time() -> None:
    """A second piece of work waits for the first; leaving waits for the last."""
    order: list[str] = []
    with CheckpointWriter() as writer:
        writer.begin(lambda: order.append("first"))
        writer.begin(lambda: order.append("second"))
    assert order == ["first", "second"]


def test_error_of_the_run_comes_before_that_of_the_thread() -> None:
    """What ended training is what is told."""

    def fail() -> None:
        raise RuntimeError("in the thread")

    with pytest.raises(ValueError, match="in training"), CheckpointWriter() as writer:
        writer.begin(fail)
        raise ValueError("in training")
    with pytest.raises(RuntimeError, match="in the thread"), CheckpointWriter() as writer:
        writer.begin(fail)


def steps(done: Attempt) -> list[int]:
    return [each["step"] for each in done.of("checkpoint")]
