"""What the kernel keeps from a trainer, whatever code runs in it."""

import json
import os
import socket
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from worker.supervisor.process import landlock
from worker.supervisor.process.child import Forkserver
from worker.supervisor.process.landlock import around

TRAINEES = "tests.worker.supervisor.small_trainers"


@pytest.mark.skipif(
    landlock.version() < 6, reason="NO LANDLOCK 6: this kernel is older than Linux 6.12, or keeps it off"
)
def test_trainer_reaches_only_its_own(tmp_path: Path) -> None:
    """It reads what was staged for it and writes into its workspace; the rest of the service does not exist for it."""
    data, workspace = tmp_path / "data", tmp_path / "data" / "work" / "ftjob-1" / "a1"
    for folder in (
        workspace / "base",
        workspace / "data",
        data / "blobs",
        data / "keys",
        workspace.parent / "checkpoints",
    ):
        folder.mkdir(parents=True)
    (workspace / "checkpoints").symlink_to(workspace.parent / "checkpoints")
    for name in ("blobs/mine", "blobs/other", "keys/signing.key", "permafrost.db"):
        (data / name).write_bytes(b"of the service")
    (workspace / "base" / "model.safetensors").symlink_to(data / "blobs" / "mine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        order = {
            "blob": str(data / "blobs" / "other"),
            "key": str(data / "keys" / "signing.key"),
            "data": str(data),
            "worker": os.getpid(),
            "port": server.getsockname()[1],
        }
        (workspace / "order.json").write_text(json.dumps(order))
        forkserver = Forkserver(home=tmp_path / "home", hidden=[data], entry=f"{TRAINEES}:pry", preload=[TRAINEES])
        with forkserver, forkserver.start(workspace) as child:
            assert child.wait(PATIENCE) == 0, (workspace / "log.txt").read_text()
    seen = json.loads((workspace / "seen.json").read_text())
    allowed = {"read a staged blob", "use a temporary file", "read the standard library"}
    assert {name for name, worked in seen.items() if worked} == allowed
    assert (data / "blobs" / "mine").read_bytes() == b"of the service"


@pytest.mark.skipif(
    landlock.version() < 6, reason="NO LANDLOCK 6: this kernel is older than Linux 6.12, or keeps it off"
)
def test_results_are_shared_within_a_project_alone(tmp_path: Path) -> None:
    """A trainer reads and writes the folder that it was given, not the one beside it, wherever its own link leads."""
    data, workspace = tmp_path / "data", tmp_path / "data" / "work" / "ftjob-1" / "a1"
    mine, other = data / "prefix-cache" / "mine", data / "prefix-cache" / "other"
    for folder in (workspace, workspace.parent / "checkpoints", mine, other):
        folder.mkdir(parents=True)
    (workspace / "checkpoints").symlink_to(workspace.parent / "checkpoints")
    (workspace / "prefix-cache").symlink_to(other)  # as a process before this one may have left it
    for folder in (mine, other):
        (folder / "rows").write_bytes(b"of the project")
    (workspace / "order.json").write_text(json.dumps({"mine": str(mine), "other": str(workspace / "prefix-cache")}))

    forkserver = Forkserver(home=tmp_path / "home", hidden=[data], entry=f"{TRAINEES}:share", preload=[TRAINEES])
    with forkserver, forkserver.start(workspace, writable=[mine]) as child:
        assert child.wait(PATIENCE) == 0, (workspace / "log.txt").read_text()
    seen = json.loads((workspace / "seen.json").read_text())
    assert {name for name, worked in seen.items() if worked} == {"read mine", "write mine"}
    assert not (other / "added").exists()


def test_around_leaves_out_the_hidden(tmp_path: Path) -> None:
    """Everything but the hidden folder is covered, by as few paths as that takes; links are not followed."""
    for name in ("a/x", "a/secret/deep", "b/y"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "secret")
    found = set(around(tmp_path, [tmp_path / "a" / "secret"]))
    assert found == {tmp_path / "a" / "x", tmp_path / "b"}


def test_around_nothing_hidden_is_the_root(tmp_path: Path) -> None:
    """Without anything to hide one path is enough."""
    assert list(around(tmp_path, [tmp_path.parent / "elsewhere"])) == [tmp_path]


def test_hidden_root_has_nothing_around(tmp_path: Path) -> None:
    """A hidden root, or one through a link, leaves nothing."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert list(around(tmp_path, [tmp_path / "link"])) == []
