"""Disks that are full, checkpoints that are damaged: what was whole stays whole, and the run goes on from it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, end
from tests.chaos.runs import HYPERPARAMETERS, KEPT, TABLE, Gates, in_a_step, order

#: Less than a checkpoint needs, and enough for the reports of a while.
SLACK = 16 << 10


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"NO SMALL DISK TO FILL: a tmpfs can be mounted by root alone ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path, *, leave: int) -> Path:
    ballast = disk / "ballast"
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(max(0, left - leave)))
    return ballast


@pytest.mark.fault(12)
def test_disk_full_at_checkpoints(cluster: Cluster, gates: Gates) -> None:
    """The last checkpoint stays, each miss is told, and after three the job waits for room; then it goes on."""
    home = cluster.settings.home
    ours = {
        "PERMAFROST_STORAGE_URL": f"file://{home}/blobs",
        "PERMAFROST_SIGNING_KEY": str(home / "keys" / "signing.key"),
        "PERMAFROST_WEBHOOK_KEY": str(home / "keys" / "webhooks.key"),
    }
    with small_disk(cluster.root / "small", "2m") as disk:
        cluster.replace_worker(PERMAFROST_DATA_DIR=str(disk), **ours)
        gates.close("a1-step-18")
        hyperparameters = HYPERPARAMETERS | {"keep_checkpoints": 1}
        job_id = cluster.submit(order(cluster, gates, hyperparameters=hyperparameters))
        gates.reached("a1-step-18", says=lambda: cluster.story(job_id))
        ballast = fill(disk, leave=SLACK)
        gates.open_all()
        cluster.until(job_id, lambda job: job["status"] == "paused")
        assert len(cluster.said(job_id, "no checkpoint after step")) == 3, cluster.story(job_id)
        assert cluster.said(job_id, "Job paused: the worker's disk is full")
        assert [path.name for path in (disk / "work" / job_id / "checkpoints").iterdir()] == ["step-00000015"]
        ballast.unlink()
        cluster.post(f"fine_tuning/jobs/{job_id}/resume")
        assert cluster.ended(job_id)["status"] == "succeeded", cluster.story(job_id)
        assert cluster.said(job_id, "goes on after step 15")
        assert cluster.row(job_id).crashes == 0
        end(cluster.worker)


@pytest.mark.fault(13)
def test_disk_full_at_an_upload(cluster: Cluster) -> None:
    """507 and nothing half; with room again the same upload works."""
    cluster.api.stop()
    with small_disk(cluster.root / "small", "2m") as disk:
        cluster.api = cluster.start_api(PERMAFROST_STORAGE_URL=f"file://{disk}/blobs")
        ballast = fill(disk, leave=SLACK)
        content = TABLE.partition(b"\n")[0] + b"\n" + b"0.1,0.2,0.3,0.4,1.0\n" * 10_000
        answer = cluster.client.post("files", data={"purpose": "fine-tune"}, files={"file": ("big.csv", content)})
        assert answer.status_code == 507, answer.text
        assert answer.json()["error"]["message"]
        assert not [path for path in (disk / "blobs").rglob("*") if path.is_file()]
        ballast.unlink()
        file_id = cluster.upload(content, "big.csv")
        assert cluster.client.get(f"files/{file_id}/content").content == content
        end(cluster.api)


def _tear(checkpoint: Path) -> None:
    os.truncate(checkpoint / "optimizer.safetensors", 40)


def _flip(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _lose_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def _empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.fault(14)
@pytest.mark.parametrize("damage", [_tear, _flip, _lose_manifest, _empty])
@pytest.mark.parametrize("which", ["the newest", "both"])
def test_damaged_checkpoint(cluster: Cluster, gates: Gates, damage: Callable[[Path], None], which: str) -> None:
    """It is passed over for the one before, or for the beginning, and the bits are the same in the end."""
    caught = in_a_step(cluster, gates)
    assert caught is not None
    saved = sorted((cluster.settings.work / caught.job_id / "checkpoints").glob("step-*"))
    assert [path.name for path in saved] == KEPT
    for path in saved[1:] if which == "the newest" else saved:
        damage(path)
    os.kill(caught.pid, signal.SIGKILL)
    caught.go_on()
    assert cluster.ended(caught.job_id)["status"] == "succeeded", cluster.story(caught.job_id)
    assert bool(cluster.said(caught.job_id, "goes on after step 10")) == (which == "the newest")
    assert cluster.said(caught.job_id, "is not used")
