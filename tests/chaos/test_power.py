"""Power lost: what a disk holds then is what was flushed, and no more. The books of such a disk, and a whole reset."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.storage.blobs import Storage
from tests.chaos.cluster import Cluster, end, eventually
from tests.chaos.runs import PHASES, Gates, catch
from tests.worker.processes import gone
from worker.trainer import checkpoint


class PowerCut(BaseException):
    """Nothing after this was done."""


class Disk:
    """Notes what a power cut would leave: a file's bytes as of its last fsync, a folder's names as of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, flushes: int | None = None) -> None:
        """The power goes at flush number `flushes`, before anything of it is done."""
        self.count, self._last = 0, flushes
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._flush: Callable[[int], None] = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        if self.count == self._last:
            raise PowerCut
        self.count += 1
        self._flush(descriptor)
        path, number = Path(f"/proc/self/fd/{descriptor}").resolve(), os.fstat(descriptor).st_ino
        if path.is_dir():
            self._names[number] = {each.name: (each.inode(), each.is_dir()) for each in os.scandir(path)}
        else:
            self._bytes[number] = path.read_bytes()

    def after_the_cut(self, folder: Path, to: Path) -> Path:
        """What is found in `folder` when the power is back, written out below `to`."""
        self._write(folder.stat().st_ino, to)
        return to

    def _write(self, number: int, to: Path) -> None:
        to.mkdir()
        for name, (inode, folder) in self._names.get(number, {}).items():
            if folder:
                self._write(inode, to / name)
            else:
                (to / name).write_bytes(self._bytes.get(inode, b""))


def _save(folder: Path, step: int) -> None:
    torch.manual_seed(step)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    state: dict[str, Any] = {"scaler": {}, "history": []}
    content = checkpoint.take(tensors=dict(model.named_parameters()), optimizer=optimizer, state=state)
    checkpoint.write(folder, content, step=step, run="r", keep=2)


def _found(folder: Path) -> int | None:
    damaged: list[Any] = []
    live = dict(nn.Linear(4, 3).named_parameters())
    found = checkpoint.newest(folder, run="r", live=live, on_damage=lambda *what: damaged.append(what))
    assert not damaged
    return found.step if found is not None else None


@pytest.mark.fault(35)
def test_published_checkpoint_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at any flush: the checkpoint before or the new one is there, whole, and nothing that only looks like one."""
    folder = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        whole = Disk(patch)
        _save(folder, 1)
        first = whole.count
        _save(folder, 2)
        total = whole.count
    assert total > first > 4
    for at in range(first, total + 1):
        folder = tmp_path / f"cut-{at}"
        with monkeypatch.context() as patch:
            disk = Disk(patch, flushes=at)
            try:
                _save(folder, 1)
                _save(folder, 2)
            except PowerCut:
                pass
        assert _found(disk.after_the_cut(folder, tmp_path / f"after-{at}")) == (2 if at == total else 1)


@pytest.mark.fault(35)
def test_unflushed_checkpoint_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without flushes, this disk has nothing after a cut."""
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        patch.setattr(checkpoint, "flush", lambda path: None)
        _save(tmp_path / "checkpoints", 1)
    assert _found(disk.after_the_cut(tmp_path / "checkpoints", tmp_path / "after")) is None


@pytest.mark.fault(35)
def test_published_blob_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob is there whole, or not at all: cut at any flush while it is stored."""
    content = os.urandom(10_000)
    for at in range(8):
        root = tmp_path / f"blobs-{at}"
        with monkeypatch.context() as patch:
            disk = Disk(patch, flushes=at)
            try:
                with Storage(f"file://{root}").writer() as writer:
                    writer.write(content)
            except PowerCut:
                continue
            stored = disk.after_the_cut(root / Path(writer.blob.key).parent, tmp_path / f"after-{at}")
        assert (stored / Path(writer.blob.key).name).read_bytes() == content
        break
    else:
        raise AssertionError("a blob was never stored")


@pytest.mark.fault(35)
@pytest.mark.parametrize("phase", PHASES)
def test_machine_is_reset(cluster: Cluster, gates: Gates, phase: str) -> None:
    """API, worker, trainer, PostgreSQL and Redis end in the same moment; afterwards the job goes on to the same end."""
    caught = catch(cluster, gates, phase)
    trainers = cluster.trainers(caught.job_id)
    end(cluster.worker)
    cluster.postgres.kill()
    cluster.redis.kill()
    end(cluster.api)
    eventually(lambda: gone(trainers))
    caught.gates.open_all()
    cluster.repair()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    assert cluster.row(caught.job_id).attempt == 2
